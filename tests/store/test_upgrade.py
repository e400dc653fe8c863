"""A database of an earlier version, with machines rented, is taken over without a loss.

`scripts/old_books.py COMMIT` makes the databases and markets in `upgrades`.
"""

import gzip
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reservations import ReservationState
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3
from tests import databases
from tests.virtual_time import DAY_ONE, VirtualClock, run_virtual
from tests.world import World, demand

pytestmark = databases.sqlite_only

UPGRADES = sorted((Path(__file__).parent / "upgrades").iterdir())
CALLER = Caller(project="p1")

pytestmark = pytest.mark.long


@pytest.fixture(params=UPGRADES, ids=lambda folder: folder.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with an old database and the market that it was used with."""
    for packed in (request.param / "books.sqlite.gz", request.param / "market.jsonl.gz"):
        with gzip.open(packed) as source, (tmp_path / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    return tmp_path


async def taken_over(clock: VirtualClock, old: Path) -> World:
    """The present version on the old database, an hour and a half after its server died."""
    world = World(clock, paced=False, accounts=1, seed=7, state=old / "market.jsonl", machines=12, create_latency=2.0)
    world.db = SqliteDatabase(old / "books.sqlite", clock.now, threads=False)
    await world.start()
    await world.sleep(3600)
    return world


def contracts(old: Path, *states: str) -> set[str]:
    with sqlite3.connect(old / "books.sqlite") as books:
        rows = books.execute("SELECT instance_id, state FROM leases").fetchall()
    return {contract for contract, state in rows if state in states}


def fingerprint(old: Path, request_id: str) -> str:
    """What the earlier version stored: the fingerprints of a test's demands follow their fields."""
    with sqlite3.connect(old / "books.sqlite") as books:
        row = books.execute("SELECT fingerprint FROM reservations WHERE request_id = ?", (request_id,)).fetchone()
    return str(row[0])


def test_machines_of_an_earlier_version_are_kept_and_its_open_ends_are_resolved(old: Path) -> None:
    had = contracts(old, "active", "parked", "starting")
    given_back = contracts(old, "releasing", "released")

    async def story(clock: VirtualClock) -> None:
        world = await taken_over(clock, old)
        live = await world.live()
        assert had <= {lease.instance_id for lease in live}
        assert {lease.instance_id for lease in live} == world.alive().keys()
        assert not given_back & world.alive().keys()
        assert {lease.state for lease in live} == {LeaseState.ACTIVE, LeaseState.PARKED}
        await world.books_agree()
        await world.engine.stop()

    run_virtual(story, start=DAY_ONE + timedelta(hours=3))


def test_a_call_that_an_earlier_version_did_not_finish_is_concluded_and_rents_nothing_twice(old: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        world = await taken_over(clock, old)
        created = world.created()
        for request_id, count in (("unknown", 1), ("running", 2)):
            asked = replace(demand(count, request_id=request_id), fingerprint=fingerprint(old, request_id))
            again = await world.engine.reserver.reserve(replace(CALLER, deadline=clock.monotonic() + 60), asked)
            assert again.reservation.settled_at is not None
            assert len(again.kept) == len(again.leases) > 0
        assert world.created() == created
        await world.engine.stop()

    run_virtual(story, start=DAY_ONE + timedelta(hours=3))


def test_everything_of_an_earlier_version_can_be_given_back(old: Path) -> None:
    async def story(clock: VirtualClock) -> None:
        world = await taken_over(clock, old)
        for reservation_id in {lease.reservation_id for lease in await world.live()}:
            await world.engine.reservations.release(CALLER, reservation_id)
        await world.sleep(1200)
        assert world.alive() == {}
        assert await world.live() == []
        view = await world.view("res-sm7b3jed")
        assert view.reservation.state is ReservationState.RELEASED
        assert all(cost > 0 for cost in view.costs)
        await world.books_agree()
        await world.engine.stop()

    run_virtual(story, start=DAY_ONE + timedelta(hours=3))
