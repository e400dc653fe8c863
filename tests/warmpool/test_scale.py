"""What many pools on one account cost: the work grows with the pools, and not with how often something happens."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from gpuproxy.model.pool_calls import HostQuery, ProvisionDemand
from gpuproxy.model.pools import PoolSpec, PoolState
from gpuproxy.ports import HttpRequest, Tx
from gpuproxy.store import pools
from tests import databases
from tests.warmpool.test_life import PRICE, caller, status
from tests.world import VAST, World, in_world

MANY = 8
INTERVALS = 30
"""Intervals of checks that are counted."""


async def many(world: World, count: int) -> None:
    """So many active pools on as many hosts."""
    query = HostQuery(max_price=PRICE, provider=VAST, verified_only=False)
    hosts = [each for each in await world.engine.pools.hosts(caller(world), query) if each.fits]
    assert len(hosts) >= count
    for number, host in enumerate(hosts[:count], start=1):
        demand = ProvisionDemand(
            machine_id=number, host_machine_id=host.machine_id, provider=VAST, spec=PoolSpec(max_price=PRICE)
        )
        view, _ = await world.engine.pools.provision(caller(world), demand)
        assert view.pool.state is PoolState.ACTIVE


async def sizes(world: World) -> int:
    """How many sizes the pools' machines have: a search asks for one."""
    return len({(await status(world, number)).pool.spec.num_gpus for number in range(1, MANY + 1)})


async def counted(world: World, saves: int) -> Counter[str]:
    """What is read and asked within so many intervals, while one pool is saved so often."""
    seen: Counter[str] = Counter()

    def heard(request: HttpRequest) -> None:
        if b"machine_id" in (request.body or b""):
            seen["searches"] += 1
        elif request.method == "GET" and "/instances/" in request.url:
            seen["listings"] += 1

    def touch(tx: Tx) -> None:
        pool = pools.get(tx, pool_id)
        pools.save(tx, pool, replace(pool, progress=f"{world.clock.monotonic()}"))

    pool_id = (await status(world, 1)).pool.id
    seconds = INTERVALS * world.settings.warmpool_check_interval
    connection = world.db._writer.conn
    world.overhear.append(heard)
    connection.set_trace_callback(lambda sql: seen.update(["reads"] if "FROM pools WHERE id" in sql else []))
    for _ in range(saves):
        await world.db.write(touch)
        await world.sleep(seconds / saves)
    connection.set_trace_callback(None)
    world.overhear.remove(heard)
    return seen


@databases.sqlite_only  # it counts statements in SQLite's trace
def test_the_work_of_many_pools_does_not_grow_with_what_happens_to_one():
    async def story(world: World) -> None:
        await world.sleep(5)
        await many(world, MANY)
        await world.sleep(60)
        calm = await counted(world, 1)
        busy = await counted(world, 10 * INTERVALS)
        assert busy["reads"] - calm["reads"] <= 4 * 10 * INTERVALS, (calm, busy)  # the save itself reads twice
        assert busy["listings"] <= calm["listings"] + 1, (calm, busy)
        assert busy["searches"] <= 2 * await sizes(world), (calm, busy)

    in_world(story, boot_time=(3.0, 4.0))


@databases.sqlite_only  # it counts statements in SQLite's trace
def test_the_work_of_a_pool_is_one_read_an_interval_and_its_account_is_listed_once_for_all():
    async def story(world: World) -> None:
        await world.sleep(5)
        await many(world, MANY)
        await world.sleep(60)
        calm = await counted(world, 1)
        assert calm["reads"] <= MANY * (INTERVALS + 2 * 2), calm  # and each look at its GPUs saves it
        assert INTERVALS - 2 <= calm["listings"] <= INTERVALS + 4, calm  # the reconciler has its own, rarely
        assert calm["searches"] <= 2 * await sizes(world), calm  # an interval of looks is 40 s

    in_world(story, boot_time=(3.0, 4.0))


def test_the_checks_of_pools_that_begin_together_are_spread_over_the_interval():
    async def story(world: World) -> None:
        await world.sleep(5)
        await many(world, MANY)
        await world.restart()
        await world.sleep(20)
        checked = [world.engine.supervisor.health_of((await status(world, n)).pool.id) for n in range(1, MANY + 1)]
        times = sorted(each.health.checked_at for each in checked if each and each.health.checked_at)
        assert len(times) == MANY
        apart = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
        assert max(apart) <= 3 * world.settings.warmpool_check_interval / MANY, apart
        assert min(apart) > 0, apart

    in_world(story, boot_time=(3.0, 4.0))


def test_a_look_that_shows_nothing_new_wakes_nobody_and_one_that_does_wakes():
    async def story(world: World) -> None:
        await world.sleep(5)
        await many(world, 1)
        pool = (await status(world, 1)).pool
        woken = []

        async def listen() -> None:
            async with world.db.watch(pools.topic(pool.id)) as wakeups:
                while True:
                    await wakeups.wait()
                    woken.append(world.clock.monotonic())

        listening = asyncio.create_task(listen())
        await world.sleep(200)
        assert (await status(world, 1)).pool.looked_at != pool.looked_at
        assert woken == []
        machine = world.sandbox.market.machines[int(pool.host.rpartition("/")[2])]
        world.sandbox.market.hold(machine, ~machine.held & ((1 << machine.gpus) - 1))
        await world.sleep(100)
        assert woken
        listening.cancel()

    in_world(story, boot_time=(3.0, 4.0))


def test_a_listing_that_takes_long_has_an_opinion_all_the_same():
    """The listing of an account with many machines has many pages, which are read one a second."""

    async def story(world: World) -> None:
        await world.sleep(5)
        await many(world, 1)
        world.delay = lambda: 4.0  # each way: a listing is older than three intervals when it is there
        primary = (await status(world, 1)).primary
        assert primary is not None
        world.control("POST", f"instances/{primary.instance_id}/kill", {"how": "container"})
        await world.sleep(240)
        assert (await status(world, 1)).pool.failover_count == 1

    in_world(story, boot_time=(3.0, 4.0))
