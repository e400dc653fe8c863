"""`make replay`: 300 recorded schedules of the simulation must end with the recorded hashes of all their events.

A change that only moves code changes no hash. A change of behaviour changes some. Then record them again with RECORD=1
and explain the change in the commit. The hashes are valid for one minor version of Python, because tasks may run in
another order in the next one. With another version nothing is compared and the exit code is 0. Exit code 1: a hash
differs.
"""

import multiprocessing
import os
import sys
from pathlib import Path

from scripts.variables import refuse_arguments
from tests.simulation import patience
from tests.simulation.story import run

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "simulation" / "recorded.txt"
_SEEDS = range(300)
_SHOWN = 10


def main() -> int:
    """The exit code: 0 if no hash differs."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        print("replay: run it with `make replay`, which sets PYTHONHASHSEED=0")
        return 2
    if "RECORD" in os.environ:
        RECORDED.write_text("\n".join([_python(), *_replayed(), ""]), encoding="utf-8")
        print(f"recorded {len(_SEEDS)} schedules")
        return 0
    python, *recorded = RECORDED.read_text(encoding="utf-8").splitlines()
    if python != _python():
        print(f"replay: not compared; the hashes are those of {python}, this is {_python()}")
        return 0
    changed = [line.split()[0] for line, before in zip(_replayed(), recorded, strict=True) if line != before]
    print(f"{len(recorded) - len(changed)} of {len(recorded)} schedules replayed as recorded")
    if changed:
        print(f"differ: seeds {', '.join(changed[:_SHOWN])}; make simulate SEED={changed[0]} shows what happens")
    return 1 if changed else 0


def hashes(seed: int) -> str:
    """The seed and the hashes of its two schedules."""
    return f"{seed} {run(seed).digest} {patience.run(seed).digest}"


def _replayed() -> list[str]:
    with multiprocessing.Pool(2) as pool:
        return pool.map(hashes, _SEEDS, 5)


def _python() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor}"


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
