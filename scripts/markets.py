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
from dataclasses import dataclass

from tests.simulation.audit import Violation
from tests.simulation.markets import MarketsReport, run

_ALL = "2000"
_PROCESSES = 2
_TWICE_EVERY = 50
_PROGRESS_EVERY = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed whose story failed."""

    seed: int
    kind: str
    text: str


def main() -> int:
    """The exit code: 0 if no promise was broken."""
    if seed := os.environ.get("SEED"):
        return _replay(int(seed))
    began, told, kinds = time.monotonic(), [], Counter[str]()
    for result in _results(_seeds(os.environ.get("SEEDS", _ALL))):
        if isinstance(result, Failure):
            kinds[result.kind] += 1
            print(f"seed {result.seed}: {result.text[:300]}\n    replay: make markets SEED={result.seed}", flush=True)
        else:
            told.append(result)
    _print_figures(told, time.monotonic() - began)
    for kind, what in (("leak", "leaks"), ("twin", "twins"), ("money", "books that differ"), ("broken", "others")):
        print(f"{'FAILED' if kinds[kind] else 'kept  '} {what}: {kinds[kind]}")
    return 1 if kinds.total() or not told else 0


def tell(seed: int) -> MarketsReport | Failure:
    """Run the story of a seed; that of every 50th seed twice."""
    try:
        told = run(seed)
        if seed % _TWICE_EVERY == 0 and run(seed) != told:
            return Failure(seed, "broken", "two runs ended in different ways")
    except Violation as violation:
        return Failure(seed, violation.kind, str(violation))
    except Exception as error:  # noqa: BLE001 - one broken story must not end all others
        return Failure(seed, "broken", f"{type(error).__name__}: {error}")
    return told


def _results(seeds: range) -> Iterator[MarketsReport | Failure]:
    with multiprocessing.Pool(_PROCESSES) as pool:
        for number, result in enumerate(pool.imap_unordered(tell, seeds, 4), start=1):
            if number % _PROGRESS_EVERY == 0:
                print(f"{number} of {len(seeds)}", flush=True)
            yield result
            if isinstance(result, Failure) and os.environ.get("FIRST"):
                return


def _seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last) + 1) if last else range(int(first))


def _replay(seed: int) -> int:
    try:
        print(run(seed, tell=True))
    except Violation as violation:
        print(f"seed {seed}: {violation}")
        return 1
    return 0


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
    sys.exit(main())
