"""Creates wait for their turn; the turns of creates that will not be sent are free for others at once."""

import asyncio

from gpuproxy.model.demands import Caller
from tests.world import World, in_world

_ONE_TURN = 10.0
"""Seconds that suffice for the turn after the one that was just taken."""


def test_the_turns_of_a_released_reservation_are_free_again():
    async def story(world: World) -> None:
        made = await world.reserve(16, wait=False)
        await world.sleep(3)
        await world.engine.books.release(Caller(project="p1"), made.reservation.id)
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
