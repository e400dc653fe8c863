"""Which offers a reservation takes: the choice alone, and all that happens to five thousand offers under the lock."""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import nsmallest
from pathlib import Path

from gpuproxy.loadbalancer.balancer import Want, choose
from gpuproxy.model.demands import Caller, Demand, LaunchSpec
from gpuproxy.model.load import UNTOUCHED, HostLoad
from gpuproxy.model.offers import HostKey, Offer, OfferFilter
from gpuproxy.model.strategies import STRATEGIES
from scripts.bench.market import OFFERS, offers
from scripts.bench.report import Row, percentile
from scripts.bench.server import wired

GPUS = 16
OF = 5_000
_RUNS = 100
_Key = tuple[int, int, int, int, str, str]
_STRATEGIES = tuple(STRATEGIES)


def measure(folder: Path) -> list[Row]:
    """For each strategy, the time against one plain pass; and the p99 of the engine's whole step."""
    return [*(_pure(name) for name in _STRATEGIES), *asyncio.run(_in_engine(folder))]


def plain_pass(market: Sequence[Offer], loads: Mapping[HostKey, HostLoad], disk_gb: float) -> list[_Key]:
    """The floor: one loop that reads what a choice needs of each offer, and takes the first sixteen by that.

    It ignores that chunks exclude each other, that the sum must be exact, and that each pick changes the ranks.
    """
    keys = []
    for offer in market:
        load = loads.get(offer.host, UNTOUCHED)
        price = offer.price(disk_gb)
        keys.append((load.live, price // offer.num_gpus, -offer.reliability_ppm, load.picks, offer.host, offer.id))
    return nsmallest(GPUS, keys)


def _pure(strategy: str) -> Row:
    market = offers(OF)
    loads = {each.host: HostLoad(live=number % 4, picks=number % 7) for number, each in enumerate(market[: OF // 4])}
    want = Want(count=GPUS)
    ratios, taken = [], []
    for _ in range(_RUNS):
        floor = _timed(lambda: plain_pass(market, loads, want.disk_gb))
        taken.append(_timed(lambda: choose(want, market, loads, strategy)))
        ratios.append(taken[-1] / floor)
    return Row(
        name=f"choose {GPUS} of {OF:,}: {strategy}, against one plain pass",
        value=statistics.median(ratios),
        unit="x",
        at_most=5,
        note=f"median of {_RUNS}; {statistics.median(taken):.1f} ms",
    )


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds of CPU time: it waits for nothing, so whatever else passes is the machine's doing."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1000


async def _in_engine(folder: Path) -> list[Row]:
    """A dry run: filter a market of 20,000, leave out what is held or failed of late, choose; the books are read."""
    async with wired(folder) as (_, engine, _):
        wanted = OfferFilter(max_price=20.0)
        passing = (await engine.catalog.market(wanted)).select(wanted).offers
        wanted = replace(wanted, max_price=passing[OF - 1].lowest_limit(wanted.disk_gb) / 1_000_000)
        caller = Caller(project="bench", role="user", deadline=engine.clock.monotonic() + 3600)
        taken = []
        for run in range(_RUNS):
            # A filter of its own for each run, so that none finds the answer of the one before.
            own = replace(wanted, min_reliability=run / 10_000_000)
            strategy = _STRATEGIES[run % len(_STRATEGIES)]
            demand = Demand(count=GPUS, filter=own, spec=LaunchSpec(), strategy=strategy, dry_run=True)
            began = time.perf_counter()
            await engine.reserver.reserve(caller, demand)
            taken.append((time.perf_counter() - began) * 1000)
    name = f"the engine's whole choice, {OF:,} of {OFFERS:,} pass"
    note = f"p99 of {len(taken)}; median {statistics.median(taken):.1f} ms"
    return [Row(name=name, value=percentile(taken, 99), unit="ms", note=note)]
