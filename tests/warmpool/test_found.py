"""Rules whose violation the random stories found. Each is told as a story of its own."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from structlog.testing import capture_logs

from gpuproxy.model.errors import Refusal
from gpuproxy.model.pool_calls import EnableDemand, HostQuery, ProvisionDemand
from gpuproxy.model.pools import Degraded, PoolSpec, PoolState, PoolView
from tests import databases
from tests.warmpool.test_life import PRICE, a_host, caller, provisioned, status
from tests.world import VAST, World, in_world


async def two_hosts(world: World) -> tuple[PoolView, PoolView]:
    """Two pools on two hosts, with the machine ids 1 and 2."""
    query = HostQuery(max_price=PRICE, provider=VAST, verified_only=False)
    hosts = [each for each in await world.engine.pools.hosts(caller(world), query) if each.fits]
    for number, host in enumerate(hosts[:2], start=1):
        demand = ProvisionDemand(
            machine_id=number, host_machine_id=host.machine_id, provider=VAST, spec=PoolSpec(max_price=PRICE)
        )
        await world.engine.pools.provision(caller(world), demand)
    return await status(world, 1), await status(world, 2)


def kill(world: World, view: PoolView, how: str = "container") -> None:
    assert view.primary is not None
    world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": how})


def instance(world: World, lease: Any) -> Any:
    """The machine of a lease at the market."""
    return world.sandbox.market.instances[int(lease.instance_id)]


def test_two_primaries_that_the_marketplace_calls_ended_are_not_our_own_network():
    async def story(world: World) -> None:
        await world.sleep(5)
        one, two = await two_hosts(world)
        kill(world, one)
        kill(world, two)
        await world.sleep(120)
        assert ((await status(world, 1)).pool.failover_count, (await status(world, 2)).pool.failover_count) == (1, 1)

    in_world(story, boot_time=(3.0, 5.0))


def test_two_primaries_that_run_and_are_silent_may_be_our_own_network_for_a_while():
    async def story(world: World) -> None:
        await world.sleep(5)
        both = await two_hosts(world)
        for view in both:
            assert view.primary is not None
            world.control("POST", f"instances/{view.primary.instance_id}/mute", {"seconds": 0})
        await world.sleep(100)
        assert [(await status(world, number)).pool.state for number in (1, 2)] == [PoolState.ACTIVE] * 2
        await world.sleep(400)
        told = [(await status(world, number)).pool for number in (1, 2)]
        assert [pool.degraded for pool in told] == [Degraded.UNREACHABLE] * 2
        assert [pool.failover_count for pool in told] == [0, 0]

    in_world(story, boot_time=(3.0, 5.0))


def test_a_primary_that_falters_is_no_reason_to_degrade_before_it_is_judged():
    async def story(world: World) -> None:
        await world.sleep(5)
        kill(world, await provisioned(world))
        await world.sleep(120)
        told = [(each.before, each.after) for each in (await status(world)).transitions]
        assert (PoolState.ACTIVE, PoolState.FAILOVER) in told

    in_world(story, boot_time=(3.0, 5.0))


def test_a_volume_that_one_cleanup_kept_is_deleted_by_the_next_one():
    async def story(world: World) -> None:
        await world.sleep(5)
        await provisioned(world)
        kept = await world.engine.pools.cleanup(caller(world), 123, keep_volume=True)
        assert kept.pending_ids == ()
        assert [row["deleted_at"] for row in world.market["volumes"]] == [None]
        gone = await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        assert gone.pending_ids == ()
        assert [row for row in world.market["volumes"] if row["deleted_at"] is None] == []

    in_world(story, boot_time=(3.0, 5.0))


def test_an_unknown_create_is_resolved_although_only_a_volume_is_left_of_the_account():
    """The volume changes the credit, and no machine is listed that would make a listing believable."""

    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        assert before.pool.mode == "recreate"
        world.arm("create", "reset_before")
        kill(world, before)
        await world.sleep(1800)
        after = await status(world)
        assert after.pool.state is PoolState.ACTIVE, after.pool
        assert after.pool.failover_count == 1

    in_world(story, boot_time=(3.0, 5.0), volume_sharing="refuse")


def test_an_unknown_volume_is_resolved_although_only_machines_are_left_of_the_account():
    async def story(world: World) -> None:
        await world.sleep(5)
        await world.reserve(1, wait_for="ready")
        world.arm("volume_create", "reset_before")
        demand = ProvisionDemand(
            machine_id=1, host_machine_id=await a_host(world), provider=VAST, spec=PoolSpec(max_price=PRICE)
        )
        with suppress(Refusal):
            await world.engine.pools.provision(caller(world), demand)
        await world.sleep(1500)
        assert [lease for lease in await world.live() if lease.kind == "volume"] == []

    in_world(story, boot_time=(3.0, 5.0))


async def disabled_with_a_stopped_primary(world: World) -> PoolView:
    """The pool before it was disabled and its primary stopped at the marketplace."""
    await world.sleep(5)
    before = await provisioned(world)
    await world.engine.pools.disable(caller(world), 123)
    world.sandbox.market.stop(instance(world, before.primary))
    await world.sleep(60)
    return before


def test_a_stopped_primary_of_an_enabled_pool_is_started_once():
    async def story(world: World) -> None:
        await disabled_with_a_stopped_primary(world)
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        await world.sleep(60)
        assert (await status(world)).pool.state is PoolState.ACTIVE
        assert world.calls("start") == 1

    in_world(story, boot_time=(3.0, 5.0), settings={"reconcile_interval": 5.0})


def test_a_call_whose_deadline_is_a_hair_away_ends():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        until = replace(caller(world), deadline=world.clock.monotonic() + 0.25 + 1e-12)
        await world.engine.pools._views.until(until, before.pool.id, lambda view: False)

    in_world(story, boot_time=(3.0, 5.0))


def test_a_second_cleanup_of_a_pool_that_is_gone_answers_at_once():
    async def story(world: World) -> None:
        await world.sleep(5)
        await provisioned(world)
        await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        began = world.clock.monotonic()
        again = await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        assert again.pending_ids == ()
        assert world.clock.monotonic() - began < 5
        assert (await status(world)).pool.wanted == "disabled"

    in_world(story, boot_time=(3.0, 5.0))


def test_a_volume_that_a_wrong_listing_does_not_show_is_neither_lost_nor_deleted():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        world.arm("volume_list", "empty_list", times=0)
        await world.sleep(900)
        world.control("DELETE", "faults")
        await world.sleep(300)
        after = await status(world)
        assert after.pool.volume == before.pool.volume
        assert after.volume is not None
        assert after.volume.state is before.volume.state
        assert [row["deleted_at"] for row in world.market["volumes"]] == [None]

    in_world(story, boot_time=(3.0, 5.0))


def test_a_volume_that_the_database_has_forgotten_is_not_deleted():
    async def story(world: World) -> None:
        await world.sleep(5)
        await provisioned(world)
        world.lose_books()
        await world.restart()
        await world.sleep(3600)
        assert world.alive() == {}
        assert [row["deleted_at"] for row in world.market["volumes"]] == [None]

    in_world(story, boot_time=(3.0, 5.0))


def test_a_pool_whose_act_meets_a_conflict_again_and_again_is_tried_once_a_second():
    """Its ledger is gone. Whatever the cause, the server must not spin."""

    async def story(world: World) -> None:
        await world.sleep(5)
        world.arm("volume_create", "offer_gone", times=0)
        with suppress(Refusal):
            await provisioned(world)
        await world.engine.pools.disable(caller(world), 123)
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        await world.sleep(150)
        pool = (await status(world)).pool
        assert (pool.state, pool.seeks) == (PoolState.DEGRADED, True)
        for table, column in (("leases", "reservation_id"), ("reservations", "id")):
            databases.rows(world.db, f"DELETE FROM {table} WHERE {column} = '{pool.ledger}'")  # noqa: S608
        world.control("DELETE", "faults")
        with capture_logs() as lines:
            while not lines:
                await world.sleep(10)
            await world.sleep(100)
        conflicts = [each for each in lines if each["event"] == "pool_changed_meanwhile"]
        assert 50 < len(conflicts) <= 150

    in_world(story)
