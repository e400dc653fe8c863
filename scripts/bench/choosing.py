"""Which offers a reservation takes: the choice alone, and all that happens to five thousand offers under the lock."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gpuproxy.balancer import Want, choose
from gpuproxy.edge.translate import encode_offer
from gpuproxy.engine.accounts import Accounts
from gpuproxy.engine.catalog import Catalog
from gpuproxy.engine.choice import Chooser, Exclusions
from gpuproxy.model.demands import Demand, LaunchSpec
from gpuproxy.model.load import HostLoad
from gpuproxy.model.offers import OfferFilter
from gpuproxy.store.sqlite import SqliteDatabase
from gpuproxy.system import ScaledClock
from scripts.bench.market import OFFERS, Marketplace, offers
from scripts.bench.report import Row, percentile

GPUS = 16
OF = 5_000
_RUNS = 150
_STRATEGIES = ("least_connections", "lowest_price")


def measure(folder: Path) -> list[Row]:
    """The p99 for each strategy, and for the engine's whole step."""
    return [*(_pure(name) for name in _STRATEGIES), *asyncio.run(_in_engine(folder))]


def _pure(strategy: str) -> Row:
    market = offers(OF)
    loads = {each.host: HostLoad(live=number % 4, picks=number % 7) for number, each in enumerate(market[: OF // 4])}
    want = Want(count=GPUS)
    return _row(f"choose {GPUS} of {OF:,}: {strategy}", _timed(lambda: choose(want, market, loads, strategy)), 50)


def _timed(work: Callable[[], object]) -> list[float]:
    """Milliseconds of each run."""
    taken = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


async def _in_engine(folder: Path) -> list[Row]:
    """The engine's choice of those that pass the filter, of a market of 20,000; two reads of the books with it."""
    provider = Marketplace(offers())
    clock = ScaledClock()
    catalog = Catalog([provider], clock, {"grpc": encode_offer})
    db = SqliteDatabase(str(folder / "books.db"), lambda: datetime.now(UTC))
    try:
        await catalog.step(provider.name)
        chooser = Chooser(catalog, Accounts([provider]), db)
        wanted = OfferFilter(max_price=20.0)
        passing = (await catalog.market(wanted)).select(wanted).offers
        wanted = replace(wanted, max_price=passing[OF - 1].price_per_gpu(wanted.disk_gb) / 1_000_000)
        taken = []
        for run in range(_RUNS):
            # A filter of its own for each run, so that none finds the answer of the one before.
            own = replace(wanted, min_reliability=run / 10_000_000)
            demand = Demand(count=GPUS, filter=own, spec=LaunchSpec())
            began = time.perf_counter()
            await chooser.choose(demand, GPUS, _STRATEGIES[run % 2], Exclusions())
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        await db.close()
    return [_row(f"the engine's whole choice, {OF:,} of {OFFERS:,} pass", taken, None)]


def _row(name: str, taken: list[float], at_most: float | None) -> Row:
    note = f"p99 of {len(taken)}; median {statistics.median(taken):.1f} ms"
    return Row(name=name, value=percentile(taken, 99), unit="ms", at_most=at_most, note=note)
