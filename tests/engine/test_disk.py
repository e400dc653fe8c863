"""No room on the disk: refuse before anything is paid, go on giving back, recover unaided."""

import asyncio

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unavailable
from tests.world import World, in_world


def fill(world: World) -> None:
    connection = world.db._writer.conn
    connection.execute("PRAGMA freelist_count")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages}")


def make_room(world: World) -> None:
    world.db._writer.conn.execute("PRAGMA max_page_count=1073741823")


def test_a_full_disk_refuses_new_work_before_the_call_and_keeps_what_was_running():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(60)
        fill(world)
        sent = world.calls("create")
        refused = 0
        for number in range(60):
            try:
                await world.reserve(1, request_id=f"r{number}", labels=(("x", "y" * 2000),))
            except Unavailable:
                refused += 1
        assert refused > 0
        assert world.calls("create") - sent == 60 - refused
        make_room(world)
        await world.sleep(120)
        await world.books_agree()
        await world.engine.books.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        await world.books_agree()

    in_world(story)


def test_an_instance_id_that_was_learnt_on_a_full_disk_is_written_when_there_is_room():
    async def story(world: World) -> None:
        world.control("DELETE", "faults")
        call = asyncio.ensure_future(world.reserve(1, request_id="a"))
        while not world.calls("create"):  # noqa: ASYNC110 - the market has no event to wait for
            await asyncio.sleep(0.01)
        fill(world)
        world.db._writer.conn.execute("PRAGMA query_only=ON")
        await world.sleep(10)
        world.db._writer.conn.execute("PRAGMA query_only=OFF")
        make_room(world)
        await call
        await world.sleep(60)
        assert len(world.alive()) == 1
        await world.books_agree()

    in_world(story, create_latency=1.0)


def test_books_that_can_not_be_written_do_not_stop_the_engine():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(60)
        world.db._writer.conn.execute("PRAGMA query_only=ON")
        with pytest.raises(Unavailable):
            await world.reserve(1)
        with pytest.raises(Unavailable):
            await world.engine.books.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(300)
        world.db._writer.conn.execute("PRAGMA query_only=OFF")
        await world.engine.books.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)
