"""Which offers a reservation takes: the choice alone, and all that happens to five thousand offers under the lock."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gpuproxy.loadbalancer.balancer import Want, choose
from gpuproxy.model.demands import Caller, Demand, LaunchSpec
from gpuproxy.model.load import HostLoad
from gpuproxy.model.offers import OfferFilter
from gpuproxy.model.strategies import STRATEGIES
from scripts.bench.market import OFFERS, offers
from scripts.bench.report import Row, percentile
from scripts.bench.server import wired

GPUS = 16
OF = 5_000
_RUNS = 150
_STRATEGIES = tuple(STRATEGIES)


def measure(folder: Path) -> list[Row]:
    """The p99 for each strategy, and for the engine's whole step."""
    return [*(_pure(name) for name in _STRATEGIES), *asyncio.run(_in_engine(folder))]


def _pure(strategy: str) -> Row:
    market = offers(OF)
    loads = {each.host: HostLoad(live=number % 4, picks=number % 7) for number, each in enumerate(market[: OF // 4])}
    want = Want(count=GPUS)
    return _row(f"choose {GPUS} of {OF:,}: {strategy}", _timed(lambda: choose(want, market, loads, strategy)), 50)


def _timed(work: Callable[[], object]) -> list[float]:
    """Milliseconds of each run, in CPU time: it waits for nothing, so whatever else passes is the machine's doing."""
    taken = []
    for _ in range(_RUNS):
        began = time.thread_time()
        work()
        taken.append((time.thread_time() - began) * 1000)
    return taken


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
    return [_row(f"the engine's whole choice, {OF:,} of {OFFERS:,} pass", taken, None)]


def _row(name: str, taken: list[float], at_most: float | None) -> Row:
    note = f"p99 of {len(taken)}; median {statistics.median(taken):.1f} ms"
    return Row(name=name, value=percentile(taken, 99), unit="ms", at_most=at_most, note=note)
