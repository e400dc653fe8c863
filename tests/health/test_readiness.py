"""When a server calls itself ready: after a recent pass over its accounts, if it had the chance to make one."""

import asyncio
from dataclasses import replace

import pytest

from tests.mortal import Life, MortalDatabase
from tests.world import World, in_world

HOUR = 3600.0


async def reconcile(world: World) -> str:
    return (await world.engine.readiness.checks())["reconcile"]


def test_a_server_that_did_not_run_for_an_hour_is_ready_when_it_runs_again() -> None:
    async def story(world: World) -> None:
        watch = asyncio.create_task(world.lateness.watch())
        await world.sleep(40)
        world.clock.stall(HOUR)
        assert await reconcile(world) == "ok"
        watch.cancel()

    in_world(story)


def test_an_hour_without_a_pass_although_the_server_ran_is_not_ready() -> None:
    async def story(world: World) -> None:
        watch = asyncio.create_task(world.lateness.watch())
        await world.sleep(40)
        await world.engine.stop()
        await world.sleep(HOUR)
        assert (await reconcile(world)).startswith("ran ")
        watch.cancel()

    in_world(story)


def test_a_standstill_excuses_no_more_than_its_own_length() -> None:
    async def story(world: World) -> None:
        watch = asyncio.create_task(world.lateness.watch())
        await world.sleep(40)
        await world.engine.stop()
        world.clock.stall(HOUR)
        await world.sleep(200)
        assert (await reconcile(world)).startswith("ran ")
        watch.cancel()

    in_world(story)


@pytest.mark.parametrize(("seconds", "said"), [(3.0, "ok"), (600.0, "does not answer")])
def test_a_database_that_is_silent_is_not_ready_and_one_that_is_slow_is(seconds: float, said: str) -> None:
    async def story(world: World) -> None:
        await world.sleep(40)
        slow = MortalDatabase(world.engine.readiness.db, Life(), lambda: seconds, lambda: None)
        checks = await asyncio.wait_for(replace(world.engine.readiness, db=slow).checks(), 60)
        assert (checks["database"], checks["reconcile"]) == (said, "ok")

    in_world(story)
