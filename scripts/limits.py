"""`make limits`: random operations on leases, holds and limits; spent + held <= limit at every commit.

Each story has its own database, limits and seed. Environment: OPS (default 100,000), SEED (default 0) for the first
story. Exit code 0: the rule held at every commit.
"""

import os
import sys
import time
from collections import Counter

from tests.store.spending.operations import run
from tests.store.spending.paid import Broken

_OPS = 100_000
_STORY = 400


def main() -> int:
    """The exit code: 1 if a commit broke the rule."""
    wanted, seed = int(os.environ.get("OPS", _OPS)), int(os.environ.get("SEED", "0"))
    began, cpu, done, fullest = time.monotonic(), time.process_time(), 0, 0.0
    kinds: Counter[str] = Counter()
    while done < wanted:
        operations = min(_STORY, wanted - done)
        try:
            story = run(seed, operations)
        except Broken as broken:
            print(f"broken    {broken}")
            return 1
        kinds, fullest = kinds + story.done, max(fullest, story.fullest)
        done, seed = done + story.checks, seed + 1
        if seed % 25 == 0:
            print(f"          {done} operations, {time.monotonic() - began:.0f} s", flush=True)
    used, passed = time.process_time() - cpu, time.monotonic() - began
    print(f"holds     {done} operations in {seed} stories, none exceeded a limit; at most {fullest:.2%} was used")
    print(f"speed     {done / passed:.0f} operations per second, {done / used:.0f} per second of CPU")
    print("ledger    debits equal credits, and costs equal meters, bookings and adjustments")
    print(f"done      {', '.join(f'{name} {number}' for name, number in sorted(kinds.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
