"""A server that stops waits for what it has sent for its pools, and sends nothing new."""

import asyncio

import pytest

from gpuproxy.model.leases import LeaseState
from gpuproxy.model.pools import PoolState
from tests.warmpool.test_life import provisioned, status
from tests.world import World, in_world

GRACE = 30.0


async def leave(world: World) -> None:
    await world.engine.drain(GRACE)
    await world.engine.stop()


def test_a_create_in_flight_for_a_pool_is_waited_for_and_recorded():
    async def story(world: World) -> None:
        await world.sleep(5)
        call = asyncio.create_task(provisioned(world))
        while world.calls("create") == 0:
            await world.sleep(0.5)
        await leave(world)
        (machine,) = [each for each in await world.leases() if each.kind == "machine"]
        assert machine.instance_id in world.alive()
        assert machine.state is LeaseState.STARTING
        call.cancel()

    in_world(story, boot_time=(3.0, 4.0), create_latency=5.0)


def test_nothing_new_is_sent_for_a_pool_while_the_server_stops():
    async def story(world: World) -> None:
        await world.sleep(5)
        call = asyncio.create_task(provisioned(world))
        while world.calls("create") == 0:
            await world.sleep(0.5)
        draining = asyncio.create_task(world.engine.drain(GRACE))
        await world.sleep(60)
        assert world.calls("create") == 1
        await draining
        await world.engine.stop()
        await world.start()
        await world.sleep(60)
        assert (await status(world)).pool.state is PoolState.ACTIVE  # the next process goes on
        call.cancel()

    in_world(story, boot_time=(3.0, 4.0), create_latency=5.0)


def test_a_create_that_waits_for_its_turn_is_withdrawn():
    async def story(world: World) -> None:
        await world.sleep(5)
        world.arm("create", "rate_limited", times=0, retry_after=100)
        call = asyncio.create_task(provisioned(world))
        while world.calls("create") == 0:
            await world.sleep(0.5)
        began = world.clock.monotonic()
        await leave(world)
        assert world.clock.monotonic() - began < 5
        (machine,) = [each for each in await world.leases() if each.kind == "machine"]
        assert machine.state is LeaseState.FAILED
        call.cancel()

    in_world(story, boot_time=(3.0, 4.0))


def test_a_start_in_flight_is_waited_for_and_its_answer_recorded():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        assert view.primary is not None
        world.delay = lambda: 1.0  # of each commit, request and answer
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        while world.calls("start") == 0:
            await world.sleep(0.1)
        await leave(world)
        standby = next(each for each in await world.leases() if view.standby and each.id == view.standby.id)
        assert standby.pending.stop_at is None  # the start was accepted

    in_world(story, boot_time=(3.0, 4.0))


@pytest.mark.parametrize("seconds", [0.0, 4.0])
def test_a_server_that_has_stopped_supervises_no_pool(seconds: float):
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        await world.engine.drain(seconds)
        before = world.engine.supervisor.health_of(view.pool.id)
        await world.sleep(10)
        assert before is None
        assert world.engine.supervisor.health_of(view.pool.id) is None

    in_world(story, boot_time=(3.0, 4.0))
