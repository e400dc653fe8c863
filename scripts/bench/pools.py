"""What 200 warm pools cost one server: how late their checks are, its CPU, and its calls to the marketplace.

The market is in the same process, so that its CPU counts too. The pools are provisioned without limits, which is not
measured. Then the server is started again, and keeps the marketplace's limits.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpuproxy.adapters.system import ScaledClock, SystemRandom, Threads
from gpuproxy.app import deployment
from gpuproxy.app.wiring import Engine, build_engine
from gpuproxy.config.settings import Settings, settings_class
from gpuproxy.model.demands import Caller
from gpuproxy.model.pool_calls import HostQuery, PoolHost, ProvisionDemand
from gpuproxy.model.pools import Pool, PoolId, PoolSpec, PoolState
from gpuproxy.ports import ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.sandbox.dialects.vast.dialect import Vast
from gpuproxy.sandbox.dialects.vast.rate_limits import RateLimits
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessHttp, InProcessProbe
from gpuproxy.sandbox.world import Sandbox, build
from gpuproxy.store import pools
from gpuproxy.store.sqlite.database import SqliteDatabase
from scripts.bench.report import Row

_POOLS = 200
_AT_ONCE = 20
_SETTLES = 90.0
"""Seconds after the start, until each standby was looked for once."""
_SECONDS = 120.0
_PRICE = 10.0
_LATE_LIMIT = 1.0
_LISTS_PER_MINUTE = 60.0
_SEARCHES_PER_MINUTE = 10.0


def measure(folder: Path) -> list[Row]:
    """The lateness of checks in seconds, CPU cores, and calls per minute and account."""
    return asyncio.run(_measured(folder))


async def _measured(folder: Path) -> list[Row]:
    clock = ScaledClock()
    market = SandboxOptions(
        rate_limits="off", machines=2600, boot_time=(0.2, 0.5), seed=7, search_page=64, accounts=("sandbox-key",),
    )  # fmt: skip
    settings = settings_class((DESCRIPTOR,)).model_validate({
        "vastai_api_key": "sandbox-key", "database_url": f"sqlite:///{folder}/books.db",
    })  # fmt: skip
    db = SqliteDatabase(str(settings.database_path), clock.now)
    try:
        unpaced = dict.fromkeys((*(call.name for call in DESCRIPTOR.calls), "user", "charges"), 0.0)
        sandbox = build(market, clock)
        async with _running(settings, db, clock, sandbox, unpaced) as engine:
            await _provisioned(engine, clock)
        dialect = sandbox._dialects[DESCRIPTOR.name]  # noqa: SLF001 - it is open during set-up
        assert isinstance(dialect, Vast)  # noqa: S101 - it speaks vast.ai's
        dialect._limits = RateLimits(enforced=True, scale=clock.scale)  # noqa: SLF001
        async with _running(settings, db, clock, sandbox, {}) as engine:
            await asyncio.sleep(_SETTLES)
            return await _steady(engine, sandbox, clock)
    finally:
        await db.close()


@asynccontextmanager
async def _running(
    settings: Settings, db: SqliteDatabase, clock: ScaledClock, sandbox: Sandbox, intervals: Mapping[str, float]
) -> AsyncIterator[Engine]:
    """A server of one account. `intervals` replace those of the marketplace."""
    random = SystemRandom()
    setup = ProviderSetup(
        account="vast-1", key="sandbox-key", base_url="http://sandbox", http=InProcessHttp(sandbox), clock=clock,
        workers=Threads(), intervals=intervals,
    )  # fmt: skip
    engine = build_engine(
        settings, db=db, clock=clock, random=random, providers=[DESCRIPTOR.connect(setup)],
        probe=InProcessProbe(sandbox), signer=await deployment.signer(db, random),
    )  # fmt: skip
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def _provisioned(engine: Engine, clock: ScaledClock) -> None:
    def caller() -> Caller:
        return Caller(project="p1", deadline=clock.monotonic() + 1800)

    query = HostQuery(max_price=_PRICE, provider=DESCRIPTOR.name, verified_only=False)
    hosts: list[PoolHost] = []
    while len(hosts) < _POOLS:  # the first search goes on in the background
        await asyncio.sleep(1)
        hosts = [each for each in await engine.pools.hosts(caller(), query) if each.fits][:_POOLS]
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, host: int) -> PoolState:
        demand = ProvisionDemand(
            machine_id=number, host_machine_id=host, provider=DESCRIPTOR.name, spec=PoolSpec(max_price=_PRICE)
        )
        async with turn:
            return (await engine.pools.provision(caller(), demand))[0].pool.state

    states = await asyncio.gather(*(one(number, each.machine_id) for number, each in enumerate(hosts, start=1)))
    if len(states) < _POOLS or set(states) != {PoolState.ACTIVE}:
        raise RuntimeError(f"{len(states)} pools in the states {set(states)}")


async def _steady(engine: Engine, sandbox: Sandbox, clock: ScaledClock) -> list[Row]:
    checks: dict[PoolId, list[float]] = defaultdict(list)
    check = engine.supervisor._checks.check  # noqa: SLF001 - the measured step

    async def noted(pool: Pool, *rest: Any) -> Any:
        health = await check(pool, *rest)
        checks[pool.id].append(clock.monotonic())
        return health

    engine.supervisor._checks.check = noted  # type: ignore[method-assign, assignment]  # noqa: SLF001
    before, cpu, began = sandbox.calls["vast.ai"], time.process_time(), time.monotonic()
    active = []
    while time.monotonic() - began < _SECONDS:
        await asyncio.sleep(5)
        active.append(sum(pool.state is PoolState.ACTIVE for pool in await engine.db.read(pools.at_work)))
    passed = time.monotonic() - began
    after = sandbox.calls["vast.ai"]
    late = sorted(max(0.0, later - earlier - 2.0) for times in checks.values() for earlier, later in pairwise(times))
    per_minute = {name: 60 * (after.get(name, 0) - before.get(name, 0)) / passed for name in ("list", "search")}
    return [
        Row(
            name="200 pools: lateness of a check, p99",
            value=statistics.quantiles(late, n=100)[98],
            unit="s",
            at_most=_LATE_LIMIT,
            note=f"{len(late)} checks of {len(checks)} pools",
        ),
        Row(
            name="200 pools: CPU, market included",
            value=(time.process_time() - cpu) / passed,
            unit="cores",
            at_most=1.0,
        ),
        Row(
            name="200 pools: pages of listings per minute",
            value=per_minute["list"],
            unit="",
            at_most=_LISTS_PER_MINUTE,
            note="a page has 25 machines",
        ),
        Row(name="200 pools: searches per minute", value=per_minute["search"], unit="", at_most=_SEARCHES_PER_MINUTE),
        Row(name="200 pools: active at once, at least", value=min(active), unit="pools"),
    ]
