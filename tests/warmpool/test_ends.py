"""How pools end: cleanup from every state, with deletes that fail at first; hosts that are gone for good."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from gpuproxy.edge.messages.pools import status_message
from gpuproxy.model.errors import FailedPrecondition, Refusal
from gpuproxy.model.pool_calls import EnableDemand
from gpuproxy.model.pools import TRANSITIONS, Degraded, PoolEvent, PoolState
from tests.warmpool.test_life import caller, provisioned, status
from tests.world import World, in_world

DETECTED_WITHIN = 12.0
"""Three checks, 2 s apart, with a listing each, and what the decision takes."""
Part = Callable[[World], Awaitable[None]]


async def active(world: World) -> None:
    await provisioned(world)


async def provisioning(world: World) -> None:
    call = asyncio.create_task(provisioned(world))
    await world.sleep(4)
    call.cancel()


async def degraded(world: World) -> None:
    view = await provisioned(world)
    assert view.standby is not None
    machine = world.sandbox.market.machines[int(view.pool.host.rpartition("/")[2])]
    world.sandbox.market.hold(machine, ~machine.held & ((1 << machine.gpus) - 1))
    await world.sleep(100)


async def failover(world: World) -> None:
    view = await provisioned(world)
    assert view.primary is not None
    world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
    await world.sleep(12)


async def disabled(world: World) -> None:
    await provisioned(world)
    await world.engine.pools.disable(caller(world), 123)


async def searching(world: World) -> None:
    await disabled(world)
    await world.engine.pools.cleanup(caller(world), 123, keep_volume=True)
    world.arm("search", "refuse_connection", times=0)
    with suppress(Refusal):
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
    world.control("DELETE", "faults")


STATES = {
    PoolState.ACTIVE: active,
    PoolState.PROVISIONING: provisioning,
    PoolState.DEGRADED: degraded,
    PoolState.FAILOVER: failover,
    PoolState.DISABLED: disabled,
    PoolState.SEARCHING: searching,
}


def test_every_state_of_the_table_has_a_way_to_it_here():
    assert set(STATES) == set(TRANSITIONS) == set(PoolState)
    assert all(PoolEvent.CLEANUP in events for events in TRANSITIONS.values())


@pytest.mark.parametrize("state", list(STATES), ids=str)
def test_a_cleanup_leaves_nothing_although_every_delete_fails_twice(state: PoolState):
    async def story(world: World) -> None:
        await world.sleep(5)
        await STATES[state](world)
        assert (await status(world)).pool.state is state
        world.arm("destroy", "status_500_before", times=2)
        world.arm("volume_delete", "status_500_before", times=2)
        ended = await world.engine.pools.cleanup(caller(world, 1500), 123, keep_volume=False)
        assert ended.pending_ids == ()
        assert world.alive() == {}
        assert [row["id"] for row in world.market["volumes"] if row["deleted_at"] is None] == []
        await world.sleep(120)
        await world.books_agree()

    in_world(story, boot_time=(5.0, 6.0))


def test_a_cleanup_whose_deadline_passes_names_what_is_left():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        world.arm("destroy", "status_500_before", times=0)
        ended = await world.engine.pools.cleanup(caller(world, 20), 123, keep_volume=False)
        assert view.primary is not None
        assert view.primary.instance_id in ended.pending_ids

    in_world(story, boot_time=(3.0, 4.0))


def test_a_host_that_is_gone_for_good_is_told_and_its_volume_is_kept_and_listed():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "host"})
        await world.sleep(DETECTED_WITHIN)
        told = await status(world)
        assert (told.pool.state, told.pool.degraded) == (PoolState.DEGRADED, Degraded.HOST_OFFLINE)
        await world.sleep(300)
        later = await status(world)
        assert later.pool.failover_count == 0
        assert later.volume is not None
        assert [row["deleted_at"] for row in world.market["volumes"]] == [None]

        moved = await provisioned(world)
        assert (moved.pool.state, moved.pool.host == view.pool.host) == (PoolState.ACTIVE, False)
        assert moved.volume is not None
        (kept,) = status_message(await status(world), world.clock.now()).retained_volumes
        assert view.volume is not None
        assert kept.volume_id == view.volume.marketplace_id
        assert kept.host_machine_id == view.pool.host_number
        assert kept.price_per_hour > 0

    in_world(story, boot_time=(3.0, 4.0))


def test_a_pool_that_may_leave_its_host_goes_to_another_one_without_its_data():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world, cross_host="empty")
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "host"})
        await world.sleep(600)
        after = await status(world)
        assert after.pool.state is PoolState.ACTIVE, after.pool
        assert after.pool.host != view.pool.host
        assert after.pool.data_state == "empty"
        assert [each.id for each in after.retained] == [view.pool.volume]
        assert [row["deleted_at"] for row in world.market["volumes"]] == [None, None]

    in_world(story, boot_time=(3.0, 4.0))


def test_a_pool_that_is_being_cleaned_up_is_not_provisioned_or_enabled():
    """Otherwise new machines would mount a volume that is being deleted."""

    async def story(world: World) -> None:
        await world.sleep(5)
        await provisioned(world)
        world.arm("volume_delete", "status_500_before", times=0)
        await world.engine.pools.cleanup(caller(world, 30), 123, keep_volume=False)
        with pytest.raises(FailedPrecondition, match="is being cleaned up"):
            await provisioned(world)
        with pytest.raises(FailedPrecondition, match="is being cleaned up"):
            await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))

    in_world(story, boot_time=(3.0, 4.0))
