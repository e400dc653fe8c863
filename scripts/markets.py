"""`make markets`: 2,000 stories of two marketplaces with several accounts each, in virtual time.

One marketplace is billed by use, the other is paid in advance. Each seed is a story with callers, faults, crashes and
bookings that end or are extended, on the real engine, store, adapters and markets. SEEDS=N (from 0) or SEEDS=FROM-TO
selects the seeds. SEED=N replays one and prints its events. FIRST=1 stops at the first failure. Exit code 0: no machine
was lost or kept twice, no create or extension was sent without a committed intent, and the books have what was paid.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from scripts.stories import Failure, announced, replayed, told
from scripts.variables import refuse_arguments, seeds, whole
from tests.simulation.markets import MarketsReport, run

_ALL = 2000
_PROCESSES = 2
_TWICE_EVERY = 50
_PROGRESS_EVERY = 500


def main() -> int:
    """The exit code: 0 if no promise was broken."""
    if os.environ.get("SEED"):
        seed = whole("SEED", 0, least=0)
        return replayed(seed, lambda: run(seed, tell=True))
    began, stories, kinds = time.monotonic(), [], Counter[str]()
    for result in _results(seeds("SEEDS", _ALL)):
        if isinstance(result, Failure):
            kinds[result.kind] += 1
            announced(result, "markets")
        else:
            stories.append(result)
    _print_figures(stories, time.monotonic() - began)
    for kind, what in (("leak", "leaks"), ("twin", "twins"), ("money", "books that differ"), ("broken", "others")):
        print(f"{'FAILED' if kinds[kind] else 'kept  '} {what}: {kinds[kind]}")
    return 1 if kinds.total() or not stories else 0


def tell(seed: int) -> MarketsReport | Failure:
    """Run the story of a seed; that of every 50th seed twice."""
    return told(seed, run, twice_every=_TWICE_EVERY)


def _results(chosen: range) -> Iterator[MarketsReport | Failure]:
    with multiprocessing.Pool(_PROCESSES) as pool:
        for number, result in enumerate(pool.imap_unordered(tell, chosen, 4), start=1):
            if number % _PROGRESS_EVERY == 0:
                print(f"{number} of {len(chosen)}", flush=True)
            yield result
            if isinstance(result, Failure) and os.environ.get("FIRST"):
                return


def _print_figures(told: list[MarketsReport], seconds: float) -> None:
    machines: Counter[str] = sum((Counter(each.machines) for each in told), Counter())
    print(f"\nschedules   {len(told)}, of {sum(each.seconds for each in told) / 3600:.0f} h of virtual time")
    print(f"machines    {', '.join(f'{name} {number}' for name, number in sorted(machines.items()))}")
    print(f"both        {sum(each.both for each in told)} reservations with machines of both marketplaces")
    print(f"extended    {sum(each.extensions for each in told)} bookings")
    print(f"unknown     {sum(each.unknowns for each in told)} creates without an answer at first")
    print(f"faults      {sum(each.faults for each in told)} calls hit, {sum(each.crashes for each in told)} crashes")
    print(f"{seconds:.0f} s")


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
