"""Old history is deleted, its sums stay, and nothing is deleted that may still be needed."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlite_utils import Database as SqliteUtils

from gpuproxy.app import figures
from gpuproxy.billing.history import History
from gpuproxy.billing.spending import Spending
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import AlreadyExists, Conflict, NotFound, Refusal, Taken
from gpuproxy.model.leases import LeaseState, ReservationId
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.model.reservations import ReservationState
from gpuproxy.ports import Tx
from gpuproxy.store import leases, pools, replay, reservations
from gpuproxy.store.migrations import migrations
from gpuproxy.store.rows import micros
from gpuproxy.store.sqlite.driver import sqlite3
from tests import databases
from tests.past import PROJECTS
from tests.reconcile.test_absence import _hidden
from tests.store.test_query_plans import age
from tests.sums import Undone, check_sums, recomputed_sums, stored_sums
from tests.warmpool.test_life import provisioned, status
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
ADMIN = Caller(project="p1", role="admin")
KEEP = {"keep_history": 20 * 86_400.0, "reconcile_interval": 240.0}
TABLES = ("reservations", "leases", "events", "meters", "settlements")

UNPROVEN = """INSERT INTO bookings (lease_id, number, project, kind, state, hours, amount, paid_before, request_key,
    intended_at, decided_at, message) SELECT id, 99, project, 'extend', 'unproven', 1, 1000, 0, 'unproven', created_at,
    created_at, '' FROM leases WHERE reservation_id = '{old}'"""


async def finished(world: World, **wanted: Any) -> str:
    """A reservation whose machine was used and is gone; another one is newer."""
    made = await world.reserve(1, request_id="a", **wanted)
    await world.sleep(3 * 3600)
    await world.engine.reservations.release(P1, made.reservation.id)
    await world.sleep(3 * 3600)
    await world.engine.true_ups[0].step()
    await world.reserve(1, request_id="b")
    await world.sleep(3600)
    return made.reservation.id


async def rows_of(world: World, reservation_id: str) -> int:
    """How many rows of all tables are about a reservation."""

    def count(tx: Tx) -> int:
        mine = "SELECT id FROM leases WHERE reservation_id = ?"
        where = {"reservations": "id = ?", "leases": "reservation_id = ?", "events": "reservation_id = ?"}
        conditions = {table: where.get(table, f"lease_id IN ({mine})") for table in TABLES}
        found = [tx.fetch(f"SELECT 1 FROM {t} WHERE {c}", (reservation_id,)) for t, c in conditions.items()]  # noqa: S608
        return sum(map(len, found))

    return await world.db.read(count)


async def figures_of(world: World) -> tuple[Any, ...]:
    now = await figures.read(world.db, world.engine.watches, world.clock)
    return now.leases, now.spent_usd, now.usd_per_hour


def test_what_ended_long_ago_is_deleted_and_the_sums_stay():
    async def story(world: World) -> None:
        old = await finished(world)
        await age(world, timedelta(days=30))
        before = await figures_of(world)
        assert await rows_of(world, old) > 10
        await world.engine.history.step()
        assert await rows_of(world, old) == 0
        leases_now, spent, rate = await figures_of(world)
        assert (leases_now, rate) == (before[0], before[2])
        assert before[1] <= spent < before[1] + 0.001, "the other machine runs"
        await world.books_agree()
        with pytest.raises(NotFound):
            await world.view(old)
        page = await world.engine.reservations.page(P1, state="", labels={}, page_size=9, page_token="")
        assert (page.total, len(page.views)) == (1, 1)
        told, total = await world.engine.spending.transactions(P1, 1000, 0)
        assert len(told) == total

    in_world(story, settings=KEEP)


async def nothing(world: World, old: str) -> None:
    pass


async def keeps_for_ever(world: World, old: str) -> None:
    world.engine.history._keep = None


def changed(sql: str) -> Callable[[World, str], Any]:
    async def change(world: World, old: str) -> None:
        databases.rows(world.db, sql.format(old=old))

    return change


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("days", "how"),
    [
        (30, keeps_for_ever),
        (10, nothing),
        (30, changed("UPDATE leases SET state = 'releasing', ended_at = NULL WHERE reservation_id = '{old}'")),
        (30, changed("UPDATE leases SET ended_at = ended_at + 1800000000000 WHERE reservation_id = '{old}'")),
        (30, changed("UPDATE reservations SET settled_at = NULL WHERE id = '{old}'")),
        (30, changed("UPDATE reservations SET settled_at = settled_at + 1800000000000 WHERE id = '{old}'")),
        (30, changed("UPDATE reservations SET state = 'releasing' WHERE id = '{old}'")),
        pytest.param(
            30,
            changed("UPDATE meta SET value = json_set(value, '$.at', 1) WHERE key LIKE 'witness:%'"),
            marks=databases.sqlite_only,  # PostgreSQL has no json_set
        ),
        (30, changed(UNPROVEN)),
        (30, changed("UPDATE events SET seq = seq + 100000 WHERE reservation_id = '{old}'")),
    ],
)
def test_nothing_is_deleted_that_may_be_needed(days: int, how: Callable[[World, str], Any]):
    async def story(world: World) -> None:
        old = await finished(world)
        await age(world, timedelta(days=days))
        await how(world, old)
        kept = await rows_of(world, old)
        await world.engine.history.step()
        assert await rows_of(world, old) == kept > 0

    in_world(story, settings=KEEP)


@pytest.mark.parametrize("count", [1, 2])
def test_the_request_id_of_a_deleted_reservation_never_rents_again(count: int):
    async def story(world: World) -> None:
        old = await finished(world)
        await age(world, timedelta(days=30))
        await world.engine.history.step()
        created = world.created()
        with pytest.raises(AlreadyExists, match="Its records are no longer kept, and no machine is rented") as caught:
            await world.reserve(count, request_id="a")
        assert caught.value.metadata == {"request_id": "a", "reservation_id": old}
        with pytest.raises(Taken, match="request_id"):
            await world.db.write(lambda tx: reservations.insert(tx, reservations_like(tx, "a")))
        assert world.created() == created
        other = await world.reserve(1, request_id="a", project="p2")
        assert len(other.kept) == 1

    in_world(story, settings=KEEP)


async def failed_pool(world: World) -> ReservationId:
    """The ledger of a pool whose volume was refused: all its leases have failed, and it is degraded."""
    world.arm("volume_create", "offer_gone", times=0)
    with pytest.raises(Refusal):
        await provisioned(world)
    world.control("DELETE", "faults")
    pool = (await status(world)).pool
    assert (pool.state, pool.degraded) == (PoolState.DEGRADED, Degraded.PROVISION_FAILED)
    await world.engine.supervisor.drain(0)  # nothing is tried again meanwhile
    return pool.ledger


@pytest.mark.parametrize("disabled", [False, True])
def test_the_ledger_of_a_pool_is_deleted_only_when_the_pool_is_not_at_work(
    disabled: bool, monkeypatch: pytest.MonkeyPatch
):
    """The deletion goes on behind a ledger that is kept: each page has one reservation here."""
    monkeypatch.setattr("gpuproxy.billing.history._RESERVATIONS", 1)

    async def story(world: World) -> None:
        await world.sleep(5)
        ledger = await failed_pool(world)
        if disabled:
            await world.db.write(lambda tx: at_rest(tx, ledger))
        old = await finished(world)
        await age(world, timedelta(days=30))
        await world.engine.history.step()
        assert await rows_of(world, old) == 0
        assert (await rows_of(world, ledger) == 0) == disabled

    in_world(story, settings=KEEP)


def at_rest(tx: Tx, ledger: ReservationId) -> None:
    pool = pools.of_ledger(tx, ledger)
    assert pool is not None
    pools.advance(tx, pool, PoolEvent.DISABLE, "a test", replace(pool, wanted="disabled"))


def reservations_like(tx: Tx, request_id: str) -> Any:
    return replace(reservations.newest(tx, "p1", "", {}, after=None, limit=1)[0], id="res-x", request_id=request_id)


def test_a_machine_that_reappears_after_its_records_were_deleted_is_released_at_once_for_its_reservation():
    async def story(world: World) -> None:
        world.arm("destroy", "destroy_ignored", times=0)
        made = await world.reserve(1, request_id="a")
        old, contract = made.reservation.id, str(made.leases[0].instance_id)
        await world.sleep(600)
        await world.engine.reservations.release(P1, old)
        with _hidden(world, contract):
            await world.sleep(120)
            assert (await world.view(old)).reservation.state is ReservationState.RELEASED
            await world.reserve(1, request_id="b")
            await world.sleep(3600)
            await age(world, timedelta(days=30))
            await world.engine.history.step()
            assert await rows_of(world, old) == 0
            assert await world.db.read(leases.exist)
        assert contract in world.alive()
        world.control("DELETE", "faults")
        await world.sleep(480)  # less than an orphan's age
        assert contract not in world.alive()
        again = await world.view(old)
        assert [(lease.state, lease.reason) for lease in again.leases] == [(LeaseState.RELEASED, "REAPPEARED")]
        assert again.leases[0].project == "p1"
        assert (await world.reserve(1, request_id="a")).reservation.id == old
        await world.books_agree()
        await world.reserve(1, request_id="c")  # the newest event of all is never deleted
        await world.sleep(3600)
        await age(world, timedelta(days=30))
        await world.engine.history.step()
        assert await rows_of(world, old) == 0

    in_world(story, settings=KEEP)


def random_meters(world: World, seed: int) -> None:
    """Meters of the past with any durations: none, short ones and long ones, one after the other or overlapping."""
    dice = random.Random(seed)
    ids = [row[0] for row in databases.rows(world.db, "SELECT id FROM leases ORDER BY id")]
    databases.rows(world.db, "DELETE FROM meters")
    for lease_id in ids:
        at = micros(world.clock.now()) - dice.randrange(1, 10**12)
        for _ in range(dice.randrange(4)):
            lasts = dice.choice((0, 1, dice.randrange(10**7), dice.randrange(10**11), 3_600_000_000))
            databases.rows(
                world.db,
                "INSERT INTO meters (lease_id, project, opened_at, closed_at, rate) "
                "SELECT id, project, ?, ?, ? FROM leases WHERE id = ?",
                (at, at + lasts, dice.choice((1, 999_999_937, dice.randrange(10**7), 10**13)), lease_id),
            )
            at += lasts


@pytest.mark.parametrize("seed", range(3))
def test_sums_of_random_meters_are_exact_and_every_page_of_transactions_is_a_part_of_the_whole_list(seed: int):
    async def story(world: World) -> None:
        now = world.clock.now()
        databases.fill(world.db, 40, now - timedelta(days=9), now - timedelta(days=2))
        random_meters(world, seed)
        await world.reserve(1)
        await world.sleep(4000)
        assert await world.db.read(stored_sums) == await world.db.read(recomputed_sums)
        for caller in (P1, ADMIN):
            spending = Spending(world.db)
            everything, total = await spending.transactions(caller, 100_000, 0)
            assert len(everything) == total > 50
            for size in (1, 7, 50):
                for offset in range(0, total, max(size, total // 9)):
                    assert await spending.transactions(caller, size, offset) == (
                        everything[offset : offset + size],
                        total,
                    )
            assert await spending.transactions(caller, 5, total) == ([], total)

    in_world(story)


@databases.sqlite_only
def test_the_sums_of_an_existing_database_are_computed_when_it_is_migrated():
    async def story(world: World) -> None:
        now = world.clock.now()
        databases.fill(world.db, 50, now - timedelta(days=9), now - timedelta(days=2))
        random_meters(world, 1)
        await world.reserve(2)
        await world.reserve(1, project="p2")
        old = SqliteUtils(sqlite3.connect(":memory:"))
        migrations.apply(old, stop_before="m0009_costs_do_not_grow_with_history")
        for table in TABLES:
            names = [column.name for column in old[table].columns]  # type: ignore[union-attr]
            known = {row[1] for row in world.db._writer.execute(f"PRAGMA table_info({table})")}
            shown = [name if name in known else f"'' AS {name}" for name in names]  # a column that was dropped since
            rows = [tuple(row) for row in world.db._writer.execute(f"SELECT {', '.join(shown)} FROM {table}")]  # noqa: S608
            old.conn.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", rows)  # noqa: S608
        old.conn.commit()
        migrations.apply(old)
        for query in (
            "SELECT metered, adjusted FROM spent",
            "SELECT provider, state, number FROM lease_counts WHERE number ORDER BY 1, 2",
            "SELECT project, state, number FROM reservation_counts WHERE number ORDER BY 1, 2",
            "SELECT project, number FROM transaction_counts WHERE number ORDER BY 1",
            "SELECT id, charge_final FROM leases ORDER BY 1",
            "SELECT lease_id, project FROM meters ORDER BY rowid",
            "SELECT lease_id, project FROM settlements ORDER BY lease_id, at",
        ):
            expected = [tuple(row) for row in world.db._writer.execute(query)]
            if query.startswith("SELECT metered"):  # random_meters has deleted meters, which the copy never had
                [(metered, adjusted)] = expected
                [(deleted,)] = world.db._writer.execute("SELECT forgotten_metered FROM spent")
                expected = [(metered - deleted, adjusted)]
            assert [tuple(row) for row in old.execute(query)] == expected, query

    in_world(story)


@databases.sqlite_only  # a read would end the transaction that is open
def test_a_sum_that_is_wrong_is_noticed_and_is_not_kept_by_the_check():
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.books_agree()
        for wrong in (
            "UPDATE spent SET metered = metered + 1",
            "UPDATE lease_counts SET number = number + 1",
            "UPDATE hosts SET picks = picks + 1",
            "UPDATE reservation_counts SET number = 0",
        ):
            databases.rows(world.db, "BEGIN")
            databases.rows(world.db, wrong)
            with pytest.raises(AssertionError):
                await world.db.read(check_sums)
            databases.rows(world.db, "ROLLBACK")
        with pytest.raises(Undone):
            await world.db.write(check_sums)

    in_world(story)


@pytest.mark.parametrize("project", [*PROJECTS, None])
@pytest.mark.parametrize("state", ["", "released", "active"])
def test_pages_of_reservations_are_parts_of_the_whole_list(project: str | None, state: str):
    async def story(world: World) -> None:
        now = world.clock.now()
        databases.fill(world.db, 30, now - timedelta(days=9), now - timedelta(days=2))
        databases.rows(world.db, "UPDATE reservations SET created_at = created_at / 60000000000 * 60000000000")
        await world.reserve(1)
        await world.sleep(300)

        def check(tx: Tx) -> None:
            for labels in ({}, {"team": "vision"}, {"team": "visio"}, {"team": 'vision"], ["'}):
                everything = reservations.newest(tx, project, state, labels, after=None, limit=1000)
                assert len(everything) == reservations.count(tx, project, state, labels)
                assert all(labels.items() <= set(each.labels) for each in everything)
                places = [(-micros(each.created_at), each.id) for each in everything]
                assert places == sorted(places)
                for at, place in enumerate(places):
                    page = reservations.newest(tx, project, state, labels, after=place, limit=4)
                    assert page == everything[at + 1 : at + 5]

        await world.db.read(check)

    in_world(story)


def test_a_lease_that_is_not_in_the_database_is_a_conflict():
    async def story(world: World) -> None:
        with pytest.raises(Conflict):
            await world.db.read(lambda tx: leases.get(tx, "lease-x"))  # type: ignore[arg-type]

    in_world(story)


def test_a_step_is_due_some_time_after_the_start_and_after_the_last_one():
    async def story(world: World) -> None:
        history = History(world.db, world.clock, None)
        made = [await world.db.read(replay.checkpoint)]
        for seconds in (0, 3599, 1, 3599, 1):
            await world.reserve(1)
            await world.sleep(seconds)
            await history.step_when_due(3600)
            made.append(await world.db.read(replay.checkpoint))
        moved = [after > before for before, after in pairwise(made)]
        assert moved == [False, False, True, False, True]

    in_world(story, settings={"reconcile_interval": 240.0})
