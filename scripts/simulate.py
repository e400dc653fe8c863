"""`make simulate`: the whole engine, store, adapter and market under one seeded scheduler, 10,000 different stories.

Each seed has two stories: one with faults, crashes and callers that leave, and one with callers that wait until their
machines are ready, on a market where every machine fails in the same way or where at most one host is bad. Every fourth
seed has a third one: two processes on one database, of which one is paused past its claims and resumes.

SEEDS=N (from 0) or SEEDS=FROM-TO selects the seeds. SEED=N replays one and prints its events. Every 20th seed runs
twice and must end with the same hash of all events (`make` fixes PYTHONHASHSEED, which sets the order of sets of
texts). FIRST=1 stops at the first failure. Exit code 0: no leak, no label with two machines, every surplus machine
destroyed in time, no working machine released as not ready, never more than twice the requested GPUs rented, and every
reservation filled that could be filled.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from scripts.stories import Failure, announced, replayed, told
from scripts.variables import refuse_arguments, seeds, whole
from tests.simulation import patience, takeover
from tests.simulation.audit import GRACE
from tests.simulation.patience import Patience
from tests.simulation.report import Report
from tests.simulation.story import run
from tests.simulation.takeover import Takeover

_ALL = 10_000
_PROCESSES = 2
_TWICE_EVERY = 20
_TAKEOVER_EVERY = 4
_CHUNK = 25
_PROGRESS_EVERY = 1000
_SHOWN = 10


Told = tuple[Report, Patience, Takeover | None]


def main() -> int:
    """The exit code: 0 if nothing was lost or kept twice."""
    if os.environ.get("SEED"):
        seed = whole("SEED", 0, least=0)
        return replayed(seed, lambda: run(seed, tell=True), lambda: patience.run(seed), lambda: takeover.run(seed))
    chosen = seeds("SEEDS", _ALL)
    began = time.monotonic()
    with multiprocessing.Pool(_PROCESSES) as pool:
        results = list(_told(pool.imap_unordered(tell, chosen, min(_CHUNK, 1 + len(chosen) // 100)), len(chosen)))
    stories = [result for result in results if not isinstance(result, Failure)]
    failures = sorted((r for r in results if isinstance(r, Failure)), key=lambda failure: failure.seed)
    _print_figures([report for report, _, _ in stories], time.monotonic() - began)
    _print_patience([patient for _, patient, _ in stories])
    _print_takeovers([takeover for _, _, takeover in stories if takeover is not None])
    return _verdict(failures)


def tell(seed: int) -> Told | Failure:
    """Run the stories of a seed; those of every 20th seed twice."""
    return told(seed, _stories, twice_every=_TWICE_EVERY, differs="undetermined")


def _stories(seed: int) -> Told:
    return run(seed), patience.run(seed), takeover.run(seed) if seed % _TAKEOVER_EVERY == 0 else None


def _told(results: Iterable[Told | Failure], total: int) -> Iterator[Told | Failure]:
    """All results. Prints the progress now and then, and failures at once."""
    for number, result in enumerate(results, start=1):
        if isinstance(result, Failure):
            announced(result, "simulate")
        if number % _PROGRESS_EVERY == 0:
            print(f"{number} of {total}", flush=True)
        yield result
        if isinstance(result, Failure) and os.environ.get("FIRST"):
            return


def _print_figures(reports: list[Report], seconds: float) -> None:
    within = [report for report in reports if not report.beyond]
    beyond = [report for report in reports if report.beyond]
    surplus = [life for report in reports for life in report.surplus]
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    print()
    print(f"schedules   {len(reports)} ({len(within)} with lateness within the declared bound, {len(beyond)} beyond)")
    print(
        f"creates     {sum(report.creates for report in reports)} sent, "
        f"{sum(report.machines for report in reports)} machines created, "
        f"{sum(report.unknowns for report in reports)} outcomes unknown at first"
    )
    print(f"faults      {faults.total()} calls hit by faults of {len(faults)} kinds")
    print(f"crashes     {sum(report.crashes for report in reports)}")
    print(f"stalls      of up to two minutes {sum(report.stalls for report in reports)} times")
    print(f"clock       moved forward or back by a day {sum(report.jumps for report in reports)} times")
    print(
        f"surplus     {len(surplus)} machines appeared after the proof of their absence (lateness beyond the bound); "
        f"the last was destroyed after {max(surplus, default=0.0):.0f} s (limit {GRACE:.0f} s)"
    )
    hours = sum(report.seconds for report in reports) / 3600
    print(f"time        {seconds:.0f} s for {hours:.0f} h of virtual time, {_PROCESSES} processes")


def _print_patience(patient: list[Patience]) -> None:
    alike = [each for each in patient if each.cause]
    others = [each for each in patient if not each.cause]
    print(
        f"all fail    {len(alike)} schedules in which every machine fails: {sum(p.rented for p in alike)} GPUs "
        f"rented for {sum(p.asked for p in alike)} wanted; at worst {max((p.worst for p in alike), default=0.0):.2f} "
        "for each (limit 2)"
    )
    print(
        f"one fails   {len(others)} schedules in which at most one host is bad: {sum(p.filled for p in others)} of "
        f"{sum(p.callers for p in others)} reservations filled; at worst "
        f"{max((p.worst for p in others), default=0.0):.2f} GPUs rented for each (limit 2)"
    )


def _print_takeovers(takeovers: list[Takeover]) -> None:
    pauses, taken = sum(each.pauses for each in takeovers), sum(each.taken for each in takeovers)
    print(
        f"takeovers   {len(takeovers)} schedules of two processes: {pauses} times one was paused, {taken} times past "
        f"its claims. When it resumed, it sent {sum(each.held for each in takeovers)} calls whose check was before the "
        "pause, and no other"
    )


def _verdict(failures: list[Failure]) -> int:
    kinds = Counter(failure.kind for failure in failures)
    working = sum(failure.times for failure in failures if failure.kind == "working")
    print(f"leaks       {kinds['leak']}")
    print(f"twins       {kinds['twin']}")
    print(f"working     {working} working machines released as NOT_READY in {kinds['working']} schedules (limit 0)")
    print(f"otherwise   {kinds.total() - kinds['leak'] - kinds['twin'] - kinds['working']} broken promises")
    for failure in failures[:_SHOWN]:
        print(f"FAILED seed {failure.seed}: {failure.text}\n    replay: make simulate SEED={failure.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    refuse_arguments(__doc__)
    sys.exit(main())
