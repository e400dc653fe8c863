"""A full disk: new rentals are refused before anything is paid, releases continue, recovery needs no operator."""

import asyncio
from pathlib import Path

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unavailable
from gpuproxy.store.sqlite.ballast import Ballast
from tests import databases
from tests.world import World, in_world

pytestmark = databases.sqlite_only

P1 = Caller(project="p1")


class Pages(Ballast):
    """A ballast in pages of the database, to simulate a disk that is short of space."""

    def __init__(self, world: World) -> None:
        super().__init__(Path("ballast"))
        self._world = world
        self._full = False
        self.held = True

    def fill(self) -> None:
        fill(self._world)
        self._full = True

    def make_room(self) -> None:
        make_room(self._world)
        self._full = False

    def hold(self) -> None:
        self.held = not self._full

    def give_up(self) -> bool:
        was, self.held = self.held, False
        if was:
            make_room(self._world)
        return was


def ballasted(world: World) -> Pages:
    world.db._ballast = ballast = Pages(world)
    return ballast


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
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        await world.books_agree()

    in_world(story)


def test_an_instance_id_received_on_a_full_disk_is_written_once_there_is_space():
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


def test_a_database_that_can_not_be_written_does_not_stop_the_engine():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(60)
        world.db._writer.conn.execute("PRAGMA query_only=ON")
        with pytest.raises(Unavailable):
            await world.reserve(1)
        with pytest.raises(Unavailable):
            await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(300)
        world.db._writer.conn.execute("PRAGMA query_only=OFF")
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


async def fill_up(world: World, ballast: Pages) -> None:
    """Reserve machines, in requests that need much space, until the ballast is used up."""
    ballast.fill()
    for number in range(60):
        if not ballast.held:
            return
        try:
            made = await world.reserve(1, request_id=f"r{number}", labels=(("x", "y" * 2000),))
        except Unavailable:
            continue
        await world.engine.reservations.release(P1, made.reservation.id)
    raise AssertionError("the disk never got full")


def test_a_release_works_on_a_full_disk():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await fill_up(world, ballasted(world))
        sent = world.calls("create")
        with pytest.raises(Unavailable, match="disk is full"):
            await world.reserve(1)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        assert world.alive() == {}
        assert world.calls("create") == sent
        await world.books_agree()

    in_world(story)


def test_a_lease_ends_on_time_on_a_full_disk():
    async def story(world: World) -> None:
        await world.reserve(2, lease=900)
        await fill_up(world, ballasted(world))
        await world.sleep(1000)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_stopped_machine_is_not_started_on_a_full_disk_but_a_running_one_is_stopped():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(60)
        one, other = (lease.instance_id or "" for lease in made.leases)
        await world.engine.machines.stop(P1, "vast.ai", one)
        await world.sleep(60)
        await fill_up(world, ballasted(world))
        with pytest.raises(Unavailable, match="disk is full"):
            await world.engine.machines.start(P1, "vast.ai", one)
        await world.engine.machines.stop(P1, "vast.ai", other)
        await world.sleep(60)
        states = {contract: row["status"] for contract, row in world.alive().items()}
        assert states == {one: "stopped", other: "stopped"}

    in_world(story)


def test_machines_are_rented_again_once_the_disk_has_space():
    async def story(world: World) -> None:
        ballast = ballasted(world)
        await fill_up(world, ballast)
        ballast.make_room()
        await world.sleep(20)
        await world.reserve(1)
        assert ballast.held
        await world.sleep(60)
        assert len(world.alive()) == 1
        await world.books_agree()

    in_world(story)


def test_a_disk_that_is_full_even_without_the_ballast_refuses_everything_and_loses_nothing():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        ballast = ballasted(world)
        await fill_up(world, ballast)
        world.db._writer.conn.execute("PRAGMA query_only=ON")
        with pytest.raises(Unavailable):
            await world.engine.reservations.release(P1, made.reservation.id)
        world.db._writer.conn.execute("PRAGMA query_only=OFF")
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        assert world.alive() == {}

    in_world(story)
