"""`make replay`: 300 recorded schedules of the simulation must end with the recorded hashes of all that happened.

A change that only moves code leaves every hash as it is. A change of behaviour alters some: then record them again
with RECORD=1, and say in the commit why. Hashes are those of one minor version of Python (tasks may run in another
order in the next one); with another version this says so and ends with 0. Exit code 1: a hash differs.
"""

import multiprocessing
import os
import sys
from pathlib import Path

from tests.simulation import patience
from tests.simulation.story import run

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "simulation" / "recorded.txt"
_SEEDS = range(300)
_SHOWN = 10


def main() -> int:
    """0 when nothing differs."""
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
    sys.exit(main())
