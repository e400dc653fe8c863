"""What 200 warm pools cost one server: how late their checks are, its CPU, and its calls to the marketplace.

The market is in the same process, so that its CPU counts too. Provisioning is not measured.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from gpuproxy.adapters.system import ScaledClock, SystemRandom, Threads
from gpuproxy.app import deployment
from gpuproxy.app.wiring import Engine, build_engine
from gpuproxy.config.settings import settings_class
from gpuproxy.model.demands import Caller
from gpuproxy.model.pool_calls import HostQuery, PoolHost, ProvisionDemand
from gpuproxy.model.pools import PoolId, PoolSpec, PoolState
from gpuproxy.ports import ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessHttp, InProcessProbe
from gpuproxy.sandbox.world import Sandbox, build
from gpuproxy.store.sqlite.database import SqliteDatabase
from scripts.bench.report import Row

_POOLS = 200
_AT_ONCE = 20
_SECONDS = 60.0
_PRICE = 10.0
_LATE_LIMIT = 1.0
_LISTS_PER_MINUTE = 60.0
_SEARCHES_PER_MINUTE = 10.0


def measure(folder: Path) -> list[Row]:
    """The lateness of checks in seconds, CPU cores, and calls per minute and account."""
    return asyncio.run(_measured(folder))


async def _measured(folder: Path) -> list[Row]:
    clock = ScaledClock()
    options = SandboxOptions(
        rate_limits="off", machines=2600, boot_time=(0.2, 0.5), seed=7, search_page=64, accounts=("sandbox-key",)
    )
    sandbox = build(options, clock)
    settings = settings_class((DESCRIPTOR,))(vastai_api_key="sandbox-key", database_url=f"sqlite:///{folder}/books.db")
    db = SqliteDatabase(str(settings.database_path), clock.now)
    setup = ProviderSetup(
        account="vast-1", key="sandbox-key", base_url="http://sandbox", http=InProcessHttp(sandbox), clock=clock,
        workers=Threads(), intervals=dict.fromkeys((*(call.name for call in DESCRIPTOR.calls), "user", "charges"), 0.0),
    )  # fmt: skip
    random = SystemRandom()
    engine = build_engine(
        settings, db=db, clock=clock, random=random, providers=[DESCRIPTOR.connect(setup)],
        probe=InProcessProbe(sandbox), signer=await deployment.signer(db, random),
    )  # fmt: skip
    await engine.start()
    try:
        await _provisioned(engine, clock)
        return await _steady(engine, sandbox, clock)
    finally:
        await engine.stop()
        await db.close()


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
    check = engine.supervisor._check  # noqa: SLF001 - the measured step

    async def noted(rows: Any) -> None:
        await check(rows)
        for row in rows:
            checks[row.pool.id].append(clock.monotonic())

    engine.supervisor._check = noted  # type: ignore[method-assign]  # noqa: SLF001
    before, cpu, began = sandbox.calls["vast.ai"], time.process_time(), time.monotonic()
    await asyncio.sleep(_SECONDS)
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
        ),
        Row(
            name="200 pools: CPU, market included",
            value=(time.process_time() - cpu) / passed,
            unit="cores",
            at_most=1.0,
        ),
        Row(name="200 pools: listings per minute", value=per_minute["list"], unit="", at_most=_LISTS_PER_MINUTE),
        Row(name="200 pools: searches per minute", value=per_minute["search"], unit="", at_most=_SEARCHES_PER_MINUTE),
    ]
