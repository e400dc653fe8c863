"""`make drill`: 1,000 failovers at vast.ai's boot times, in virtual time and without other faults.

Prints how long each phase takes, and compares the outage and our own part of it with their targets. COUNT=N makes
another number of failovers. Exit code 0: both targets are met, every standby took over, and no volume ever had two
writers.
"""

import multiprocessing
import sys
import time

from gpuproxy.model.pools import PHASES
from scripts.variables import refuse_arguments, whole
from tests.simulation.drill import BOOT_TIME, Drills, run, spread

OUTAGE, OURS = 60.0, 15.0
"""Targets for the 95th percentile, in seconds."""
_COUNT = 1000
_EACH = 20
_PROCESSES = 2


def main() -> int:
    """The exit code: 0 if the targets are met."""
    began, drills = time.monotonic(), Drills()
    shares = _shares(whole("COUNT", _COUNT))
    with multiprocessing.Pool(_PROCESSES) as pool:
        for found in pool.starmap(run, enumerate(shares)):
            drills.add(found)
    print(f"{len(drills.outages)} failovers; a start takes {BOOT_TIME[0]:.0f} to {BOOT_TIME[1]:.0f} s\n")
    print("phase          p50      p95      max")
    for phase in PHASES:
        print(_line(phase, drills.phases[phase]))
    print(_line("outage", drills.outages))
    print(_line("our part", drills.ours))
    met = [
        _target("outage, p95", spread(drills.outages, 0.95), OUTAGE),
        _target("our own part, p95", spread(drills.ours, 0.95), OURS),
        _target("failovers without the standby", drills.failed, 0),
        _target("writers of a volume at once, at most", drills.most_writers, 1),
    ]
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if all(met) else 1


def _shares(count: int) -> list[int]:
    """How many failovers each pool makes."""
    return [min(_EACH, count - first) for first in range(0, count, _EACH)]


def _line(name: str, values: list[float]) -> str:
    return f"{name:<10} {spread(values, 0.5):6.1f} s {spread(values, 0.95):6.1f} s {max(values, default=0.0):6.1f} s"


def _target(what: str, value: float, limit: float) -> bool:
    print(f"{'met   ' if value <= limit else 'MISSED'} {what}: {value:g} (target: at most {limit:g})")
    return value <= limit


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
