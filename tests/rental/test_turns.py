"""Creates wait for their turns. If a create will not be sent, its turn is free for others at once."""

import asyncio

from gpuproxy.model.demands import Caller
from tests.world import World, in_world

_ONE_TURN = 10.0
"""Seconds that suffice for the turn after the one that was just taken."""


def test_the_turns_of_a_released_reservation_are_free_again():
    async def story(world: World) -> None:
        made = await world.reserve(16, wait=False)
        await world.sleep(3)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        assert await _seconds_of_one(world) <= _ONE_TURN

    in_world(story, paced=True)


def test_the_turns_that_a_crash_interrupted_are_free_again():
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(16))
        await world.sleep(3)
        await world.restart()
        assert call.cancelled()
        assert await _seconds_of_one(world) <= _ONE_TURN

    in_world(story, paced=True)


def test_turns_that_are_still_wanted_are_not_given_away():
    async def story(world: World) -> None:
        await world.reserve(8, wait=False)
        await world.sleep(3)
        assert await _seconds_of_one(world) >= 30

    in_world(story, paced=True)


async def _seconds_of_one(world: World) -> float:
    began = world.clock.monotonic()
    made = await world.reserve(1)
    assert len(made.kept) == 1
    return world.clock.monotonic() - began


def test_a_create_that_a_stall_delays_pushes_the_next_one_back():
    async def story(world: World) -> None:
        stall = [0.0]
        world.delay = lambda: stall[0]
        await world.restart()
        sent = _creates(world)
        call = asyncio.create_task(world.reserve(3))
        await world.sleep(4.5)
        stall[0] = 2.0  # the commit before the second create takes 2 s
        await world.sleep(1)
        stall[0] = 0.0
        made = await call
        assert [lease.reason for lease in made.leases] == ["", "", ""]
        assert sent[1] - sent[0] > 6.5
        assert sent[2] - sent[1] >= 4.5 - 1e-6

    in_world(story, paced=True)


def test_without_a_stall_creates_are_sent_one_interval_apart():
    async def story(world: World) -> None:
        sent = _creates(world)
        await world.reserve(3)
        assert [round(at - sent[0], 2) for at in sent] == [0.0, 4.59, 9.18]

    in_world(story, paced=True)


def _creates(world: World) -> list[float]:
    """A list that gets the time of each create that reaches the market."""
    sent: list[float] = []
    world.overhear.append(lambda request: sent.append(world.clock.monotonic()) if request.method == "PUT" else None)
    return sent
