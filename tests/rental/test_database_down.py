"""If the database can't be written for a while, all promises are kept once it can."""

import asyncio
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unavailable
from tests.world import World, in_world


def test_a_call_that_ends_while_the_database_fails_is_concluded_once_it_works():
    async def story(world: World) -> None:
        world.arm("create", "hang_before", seconds=20)
        call = asyncio.ensure_future(world.reserve(2, all_or_nothing=True, seconds=40))
        await world.sleep(10)
        world.life.books_fail = True
        await world.sleep(120)
        with pytest.raises(asyncio.CancelledError):
            call.cancel()
            await call
        world.life.books_fail = False
        await world.sleep(900)
        assert world.created() == 1
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_caller_that_leaves_while_the_database_fails_leaves_nothing_behind():
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(2, wait_for="ready"))
        await world.sleep(5)
        assert len(world.alive()) == 2
        world.life.books_fail = True
        call.cancel()
        await world.sleep(60)
        world.life.books_fail = False
        await world.sleep(60)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize("wanted", [{}, {"request_id": "a"}, {"wait_for": "ready"}])
def test_a_database_that_can_not_be_read_during_a_call_leaves_no_machine_without_an_owner(
    monkeypatch: pytest.MonkeyPatch, wanted: Any
):
    async def story(world: World) -> None:
        read = world.db.read

        async def failing(fn: Any) -> Any:
            if world.created():
                monkeypatch.setattr(world.db, "read", read)
                raise Unavailable("The database can't be read.", reason="DATABASE")
            return await read(fn)

        monkeypatch.setattr(world.db, "read", failing)
        made = await world.reserve(1, **wanted)
        assert made.reservation.answered_at is not None
        assert [lease.instance_id for lease in made.kept] == list(world.alive())
        assert world.created() == 1

    in_world(story)


@pytest.mark.parametrize("lease", [None, 100])
def test_ended_leases_are_destroyed_although_the_database_can_not_be_written(lease: int | None):
    async def story(world: World) -> None:
        over = await world.reserve(2, request_id="a", **({"lease": lease} if lease else {}))
        kept = await world.reserve(1, request_id="b")
        await world.sleep(60)
        if lease is None:
            world.arm("destroy", "status_500_before", times=2)
            await world.engine.reservations.release(Caller(project="p1"), over.reservation.id)
            await world.sleep(5)
        assert len(world.alive()) == 3
        world.life.books_fail = True
        await world.sleep(120)
        assert set(world.alive()) == {kept.kept[0].instance_id}
        world.life.books_fail = False
        await world.sleep(120)
        await world.books_agree()
        assert len(await world.live()) == 1

    in_world(story)
