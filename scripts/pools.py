"""`make pools`: 10,000 incidents of warm pools with faults and crashes, under one seeded scheduler in virtual time.

Each seed is a story of one to three pools on the real engine, store, adapter and market. INCIDENTS=N ends after so many
incidents; SEEDS=FROM-TO selects the seeds instead. SEED=N replays one and prints its events. FIRST=1 stops at the first
failure. Exit code 0: no volume had two writers or two workloads at any moment, nothing was deleted unasked, no working
primary was replaced, nothing is left at the market that the books do not have, each incident led to one failover at
most, and every pool ended active, or degraded for a reason that the market explains.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from scripts.stories import Failure, announced, judged, replayed, told
from scripts.variables import refuse_arguments, seeds, whole
from tests.simulation.pools import PoolReport, run

_INCIDENTS = 10_000
_PROCESSES = 2
_TWICE_EVERY = 50
_PROGRESS_EVERY = 1000
_KINDS = {
    "writers": "moments with two writers on one volume",
    "workloads": "moments with two workloads on one volume",
    "false": "false failovers",
    "orphan": "orphans",
    "volume": "volumes deleted unasked",
    "twice": "incidents with two failovers",
    "rest": "pools that did not come to rest, or whose state nothing explains",
    "broken": "other broken promises",
}


def main() -> int:
    """The exit code: 0 if no promise was broken."""
    if os.environ.get("SEED"):
        seed = whole("SEED", 0, least=0)
        return replayed(seed, lambda: run(seed, tell=True))
    began, stories, failures = time.monotonic(), [], []
    for result in _results():
        if isinstance(result, Failure):
            failures.append(result)
            announced(result, "pools")
        else:
            stories.append(result)
    _print_figures(stories, time.monotonic() - began)
    return judged(failures, _KINDS, "pools")


def tell(seed: int) -> PoolReport | Failure:
    """Run the story of a seed; that of every 50th seed twice."""
    return told(seed, run, twice_every=_TWICE_EVERY)


def _results() -> Iterator[PoolReport | Failure]:
    """The results, until there were enough incidents or the seeds are used up. Prints the progress now and then."""
    chosen, wanted = _seeds()
    incidents = shown = 0
    with multiprocessing.Pool(_PROCESSES) as pool:
        for result in pool.imap_unordered(tell, chosen, 4):
            yield result
            if isinstance(result, Failure):
                if os.environ.get("FIRST"):
                    return
                continue
            incidents += result.incidents
            if incidents // _PROGRESS_EVERY > shown:
                shown = incidents // _PROGRESS_EVERY
                print(f"{incidents} incidents", flush=True)
            if incidents >= wanted:
                return


def _seeds() -> tuple[range, float]:
    """The seeds, and after how many incidents it is enough."""
    if os.environ.get("SEEDS"):
        return seeds("SEEDS", 0), float("inf")
    return range(10**6), float(whole("INCIDENTS", _INCIDENTS))


def _print_figures(told: Sequence[PoolReport], seconds: float) -> None:
    ends: Counter[str] = sum((each.ends for each in told), Counter())
    print()
    print(f"incidents   {sum(each.incidents for each in told)} in {len(told)} stories of {ends.total()} pools")
    print(
        f"faults      {sum(each.faults for each in told)} calls hit by faults, "
        f"{sum(each.unknowns for each in told)} outcomes unknown at first"
    )
    print(
        f"crashes     {sum(each.crashes for each in told)}; a process was paused past its claims "
        f"{sum(each.pauses for each in told)} times"
    )
    print(f"failovers   {sum(each.failovers for each in told)}, tests included")
    outages = [outage for each in told for outage in each.outages]
    print(f"outage      {_spread([each.seconds for each in outages])} from the last good probe, with all faults")
    print(f"our part    {_spread([each.ours for each in outages])} of it: all but the marketplace's start")
    print("ends        " + ", ".join(f"{word} {count}" for word, count in ends.most_common()))
    hours = sum(each.seconds for each in told) / 3600
    print(f"time        {seconds:.0f} s for {hours:.0f} h of virtual time, {_PROCESSES} processes")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    found = sorted(values)
    return ", ".join(f"p{part} {found[min(len(found) - 1, len(found) * part // 100)]:.1f} s" for part in (50, 95, 99))


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
