"""What one project does keeps no other one waiting, and what is given back waits for nothing unrelated."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal, Unavailable
from gpuproxy.ports import HttpRequest
from tests.world import World, in_world

pytestmark = pytest.mark.long

_INTERVAL = 4.5 * 1.02
_DESTROY_INTERVAL = 3.0 * 1.02
_FLOOD = 20


async def _took(world: World, work: Awaitable[object]) -> float:
    began = world.clock.monotonic()
    await work
    return world.clock.monotonic() - began


async def _ends(call: "asyncio.Task[object]") -> None:
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


def _destroys(world: World) -> dict[str, float]:
    """Filled with the time at which the first destroy of each contract reaches the market."""
    sent: dict[str, float] = {}

    def hear(request: HttpRequest) -> None:
        if request.method == "DELETE":
            sent.setdefault(request.url.rstrip("/").rpartition("/")[2], world.clock.monotonic())

    world.overhear.append(hear)
    return sent


def test_a_project_that_reserves_much_delays_another_ones_create_by_two_intervals_at_most():
    async def alone(world: World) -> float:
        return await _took(world, world.reserve(1, seconds=30, project="small"))

    async def beside_a_flood(world: World) -> float:
        flood = [asyncio.ensure_future(world.reserve(16, project="flood")) for _ in range(_FLOOD)]
        await world.sleep(3)
        seconds = await _took(world, world.reserve(1, seconds=30, project="small"))
        for call in flood:
            await _ends(call)
        return seconds

    by_itself = in_world(alone, paced=True, machines=400)
    in_a_flood = in_world(beside_a_flood, paced=True, machines=400)
    assert in_a_flood <= by_itself + 2 * _INTERVAL


def test_the_flood_itself_waits_for_its_own_turns():
    async def story(world: World) -> None:
        flood = asyncio.ensure_future(world.reserve(16, project="flood"))
        await world.sleep(1)
        await world.reserve(1, project="small")
        made = await flood
        assert len(made.kept) == 16

    in_world(story, paced=True, machines=400)


def test_a_call_whose_turn_comes_too_late_is_told_how_long_the_queue_is():
    async def story(world: World) -> None:
        first = asyncio.ensure_future(world.reserve(16))
        await world.sleep(3)
        with pytest.raises(Unavailable) as refused:
            await world.reserve(1, seconds=30)
        assert refused.value.reason == "CREATE_QUEUE"
        assert 30 < float(refused.value.metadata["queue_seconds"]) < 16 * _INTERVAL
        assert refused.value.retry_after == float(refused.value.metadata["queue_seconds"])
        await _ends(first)

    in_world(story, paced=True, machines=400)


def test_a_call_whose_own_deadline_leaves_no_time_is_told_that():
    async def story(world: World) -> None:
        with pytest.raises(Refusal) as refused:
            await world.reserve(1, seconds=0.5)
        assert refused.value.reason == "DEADLINE_EXCEEDED"

    in_world(story)


def test_a_project_that_gives_much_back_delays_another_ones_destroy_by_one_interval_at_most():
    async def story(world: World) -> None:
        many = [await world.reserve(16, project="many", wait_for="created", seconds=600) for _ in range(3)]
        one = await world.reserve(1, project="one")
        await world.sleep(60)
        sent = _destroys(world)
        for made in many:
            await world.engine.reservations.release(Caller(project="many"), made.reservation.id)
        await world.sleep(10)
        contract = str(one.kept[0].instance_id)
        asked = world.clock.monotonic()
        await world.engine.instances.destroy(Caller(project="one"), "vast.ai", contract)
        await world.sleep(3 + 2 * _DESTROY_INTERVAL)
        assert sent[contract] - asked <= 3 + _DESTROY_INTERVAL
        assert len(sent) < 48
        await world.sleep(48 * _DESTROY_INTERVAL + 60)
        assert world.alive() == {}

    in_world(story, paced=True, machines=400)


@pytest.mark.parametrize("fault", ["hang_before", "slow_trickle"])
def test_a_destroy_is_sent_while_a_listing_hangs(fault: str):
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.sleep(60)
        world.arm("list", fault, times=0, seconds=600)
        await world.sleep(35)
        sent = _destroys(world)
        asked = world.clock.monotonic()
        await world.engine.instances.destroy(Caller(project="p1"), "vast.ai", str(made.kept[0].instance_id))
        await world.sleep(1)
        assert list(sent.values()) == [asked]

    in_world(story)


@pytest.mark.parametrize("fault", ["hang_before", "status_500_before"])
def test_a_lease_ends_at_its_time_while_a_listing_hangs(fault: str):
    async def story(world: World) -> None:
        began = world.clock.monotonic()
        made = await world.reserve(1, request_id="a", lease=100)
        await world.sleep(30)
        world.arm("list", fault, times=0, seconds=600)
        sent = _destroys(world)
        await world.sleep(80)
        assert sent[str(made.kept[0].instance_id)] - began == pytest.approx(100, abs=0.5)

    in_world(story)


def test_without_any_fault_a_lease_ends_within_a_second():
    async def story(world: World) -> None:
        began = world.clock.monotonic()
        made = await world.reserve(1, request_id="a", lease=200)
        sent = _destroys(world)
        await world.sleep(201)
        assert sent[str(made.kept[0].instance_id)] - began == pytest.approx(200, abs=0.5)

    in_world(story)


def test_a_lease_that_is_extended_ends_at_the_new_time_only():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a", lease=100)
        until = made.reservation.created_at + timedelta(seconds=300)
        await world.engine.reservations.extend(Caller(project="p1"), made.reservation.id, until)
        await world.sleep(290)
        assert len(world.alive()) == 1
        await world.sleep(20)
        assert world.alive() == {}

    in_world(story)
