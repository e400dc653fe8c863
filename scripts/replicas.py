"""`make replicas`: two or three servers on one database under one seeded scheduler, 10,000 schedules in virtual time.

Servers crash, are paused for up to two minutes and go on, lose the database or the answers to commits, and have wrong
clocks, while the marketplace has faults of its own. Most seeds are stories of callers at any server who share a
spending limit. Every fifth one is a story of warm pools. SEEDS=N (from 0) or SEEDS=FROM-TO selects the seeds, SEED=N
replays one. Every 50th seed runs twice and must end with the same hash. FIRST=1 stops at the first failure. Exit code
0: no leak, no label with two machines, no commit beyond a limit, no effect without the claim, no volume with two
writers, and no gap or wrong order in what a watcher saw.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence

from scripts.stories import Failure, announced, judged, replayed, told
from scripts.variables import refuse_arguments, seeds, whole
from tests.simulation import replicas, replicas_pools
from tests.simulation.pools import PoolReport
from tests.simulation.replicas import Replicas

_ALL = 10_000
_PROCESSES = 2
_TWICE_EVERY = 50
_POOLS_EVERY = 5
_PROGRESS_EVERY = 500
_KINDS = {
    "leak": "leaks",
    "twin": "twins",
    "overshoot": "commits beyond a spending limit",
    "fence": "effects without the claim",
    "writers": "moments with two writers on one volume",
    "gap": "watchers that missed a change or saw one out of order",
    "broken": "other broken promises",
}


def main() -> int:
    """The exit code: 0 if no promise was broken."""
    if os.environ.get("SEED"):
        seed = whole("SEED", 0, least=0)
        return replayed(seed, lambda: _story(seed))
    chosen, began = seeds("SEEDS", _ALL), time.monotonic()
    stories: list[Replicas | PoolReport] = []
    failures: list[Failure] = []
    with multiprocessing.Pool(_PROCESSES) as pool:
        for number, result in enumerate(pool.imap_unordered(tell, chosen, 2), start=1):
            if isinstance(result, Failure):
                failures.append(result)
                announced(result, "replicas")
                if os.environ.get("FIRST"):
                    break
            else:
                stories.append(result)
            if number % _PROGRESS_EVERY == 0:
                print(f"{number} of {len(chosen)}", flush=True)
    _print_figures([each for each in stories if isinstance(each, Replicas)])
    _print_pools([each for each in stories if isinstance(each, PoolReport)])
    print(f"time        {time.monotonic() - began:.0f} s, {_PROCESSES} processes")
    return judged(failures, _KINDS, "replicas")


def tell(seed: int) -> Replicas | PoolReport | Failure:
    """Run the story of a seed; that of every 50th seed twice."""
    return told(seed, _story, twice_every=_TWICE_EVERY)


def _story(seed: int) -> Replicas | PoolReport:
    return replicas_pools.run(seed) if seed % _POOLS_EVERY == _POOLS_EVERY - 1 else replicas.run(seed)


def _print_figures(told_: Sequence[Replicas]) -> None:
    def total(name: str) -> int:
        return sum(getattr(each, name) for each in told_)

    three = sum(each.servers == 3 for each in told_)
    print()
    print(f"schedules   {len(told_)} of callers: {len(told_) - three} with two servers, {three} with three")
    print(f"creates     {total('creates')} sent, {total('faults')} calls hit by faults of the marketplace")
    print(f"servers     {total('crashes')} crashes, {total('pauses')} pauses, {total('moves')} accounts moved")
    print(f"database    {total('outages')} outages, {total('lost')} commits whose answer was lost")
    print(
        f"callers     {total('joined')} repeats of a request_id at any server, {total('watches')} watchers that moved"
    )
    fullest = max((each.fullest for each in told_), default=0.0)
    print(f"limits      {total('refused')} calls refused; at most {fullest:.2%} of a limit was used")


def _print_pools(told_: Sequence[PoolReport]) -> None:
    print(
        f"pools       {len(told_)} schedules: {sum(each.incidents for each in told_)} incidents, "
        f"{sum(each.failovers for each in told_)} failovers, {sum(each.crashes for each in told_)} crashes, "
        f"{sum(each.pauses for each in told_)} pauses"
    )


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
