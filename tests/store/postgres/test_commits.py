"""Commits over PostgreSQL: what is not answered is looked up, and no server decides on an old snapshot."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import structlog

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Tx
from gpuproxy.store import claims, meta
from gpuproxy.store.postgres import writer
from gpuproxy.store.postgres.database import PostgresDatabase
from tests import pgbouncer, postgres
from tests.store.postgres.cutting import Cut, Wire


@pytest.fixture
def url() -> str:
    return postgres.fresh()


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    made = Wire(url)
    yield made
    made.close()


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[PostgresDatabase, PostgresDatabase]]:
    """Two servers with one database."""
    servers = postgres.opened(url, threads=True), postgres.opened(url, threads=True)
    yield servers
    for each in servers:
        await each.close()


def increment(tx: Tx) -> int:
    number = int(meta.read(tx, "n") or "0") + 1
    meta.write(tx, "n", str(number))
    tx.changed("topic")
    return number


async def number(db: PostgresDatabase) -> int:
    return int(await db.read(lambda tx: meta.read(tx, "n")) or "0")


CUTS: list[tuple[Cut, ...]] = [("after",), ("before",), ("after", "after"), ("before", "after"), ("after", "before")]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("threads", [False, True])
async def test_a_commit_without_an_answer_counts_once(wire: Wire, url: str, cuts: tuple[Cut, ...], threads: bool):
    """The second cut is of the commit that looks the first one up."""
    db, seen = postgres.opened(wire.url, threads=threads), []

    def unit(tx: Tx) -> int:
        tx.after_commit(lambda: seen.append("called"))
        return increment(tx)

    assert await db.write(increment) == 1
    wire.arm(*cuts)
    with structlog.testing.capture_logs() as lines:
        assert await db.write(unit) == 2
    assert wire.made == len(cuts)
    looked_up = [line["committed"] for line in lines if line["event"] == "commit_looked_up"]
    assert looked_up[0] == (cuts[0] == "after")
    assert (await number(db), seen) == (2, ["called"])
    await db.close()
    await asyncio.sleep(0)


async def test_units_that_shared_a_commit_without_an_answer_all_count_once(wire: Wire):
    db = postgres.opened(wire.url, threads=True)
    wire.arm("after")
    numbers = await asyncio.gather(*(db.write(increment) for _ in range(50)))
    assert (sorted(numbers), wire.made) == (list(range(1, 51)), 1)
    assert await number(db) == 50
    await db.close()


async def test_if_nobody_knows_what_became_of_a_commit_the_unit_fails_and_says_so(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "LOOK_UP_FOR", 0.3)
    db = postgres.opened(wire.url)
    await db.write(increment)
    wire.arm("after", *["before"] * 50)
    with pytest.raises(Unavailable, match="not known whether the change was stored"):
        await db.write(increment)
    wire._cuts.clear()
    assert await db.write(increment) == 3  # it was stored
    await db.close()


async def test_a_lost_connection_before_the_commit_repeats_the_unit(url: str):
    db, runs = postgres.opened(url, threads=True), []

    def unit(tx: Tx) -> int:
        runs.append("run")
        made = increment(tx)
        if len(runs) == 1:
            [row] = tx.fetch("SELECT pg_backend_pid() AS pid")
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", (row["pid"],))
            tx.fetch("SELECT 1 AS one")
        return made

    assert await db.write(unit) == 1
    assert (len(runs), await number(db)) == (2, 1)
    await db.close()


async def test_every_unit_counts_once_while_connections_are_terminated_at_random(
    two: tuple[PostgresDatabase, PostgresDatabase], url: str
):
    answered: list[int] = []
    ended = threading.Event()

    def terminate() -> None:
        with psycopg.connect(url, autocommit=True) as admin:
            while not ended.wait(0.02):
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
                )

    async def call(db: PostgresDatabase) -> None:
        for _ in range(20):
            with suppress(Unavailable):  # after several losses in a row; nothing was changed then
                answered.append(await db.write(increment))

    killer = threading.Thread(target=terminate)
    killer.start()
    await asyncio.gather(*(call(db) for db in two for _ in range(3)))
    ended.set()
    killer.join()
    assert sorted(answered) == list(range(1, len(answered) + 1))
    for _ in range(5):
        with suppress(Unavailable):
            assert await number(two[0]) == len(answered) > 50
            break


@pytest.mark.parametrize("pooled", [False, True])
async def test_two_servers_never_exceed_a_limit_together(url: str, pooled: bool):
    place = pgbouncer.through(url) if pooled else url
    servers = [postgres.opened(place, threads=True) for _ in range(2)]

    def spend(server: int, call: int) -> Callable[[Tx], bool]:
        def unit(tx: Tx) -> bool:
            [row] = tx.fetch("SELECT count(*) AS n FROM meta")
            if row["n"] >= 10:
                return False
            meta.write(tx, f"{server}-{call}", "spent")
            return True

        return unit

    spent = await asyncio.gather(*(db.write(spend(at, n)) for n in range(25) for at, db in enumerate(servers)))
    assert sum(spent) == 10
    rows = await servers[0].read(lambda tx: tx.fetch("SELECT key FROM meta"))
    assert len(rows) == 10
    for db in servers:
        await db.close()


async def test_a_unit_that_waited_for_another_server_sees_what_that_one_committed(
    two: tuple[PostgresDatabase, PostgresDatabase], url: str
):
    within = threading.Event()

    def first(tx: Tx) -> None:
        tx.now()  # from its first word with the database on, a unit has the lock
        within.set()
        with psycopg.connect(url, autocommit=True) as watching:
            waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while watching.execute(waits).fetchone() is None:
                pass
        meta.write(tx, "spent", "1")

    def second(tx: Tx) -> str | None:
        return meta.read(tx, "spent")

    writing = asyncio.ensure_future(two[0].write(first))
    await asyncio.to_thread(within.wait, 60)
    assert await two[1].write(second) == "1"
    await writing


async def test_the_order_of_events_is_the_order_of_commits(two: tuple[PostgresDatabase, PostgresDatabase]):
    numbers = await asyncio.gather(*(db.write(increment) for _ in range(40) for db in two))
    assert sorted(numbers) == list(range(1, 81))


async def test_a_server_that_stands_still_within_a_transaction_is_cut_off(
    two: tuple[PostgresDatabase, PostgresDatabase], monkeypatch: pytest.MonkeyPatch
):
    """It keeps the writers' lock for five seconds at most, and what it had not committed is run again."""
    stands, goes_on, runs = threading.Event(), threading.Event(), []

    def unit(tx: Tx) -> int:
        runs.append("run")
        made = increment(tx)
        if len(runs) == 1:
            stands.set()
            assert goes_on.wait(60)
        return made

    slow = asyncio.ensure_future(two[0].write(unit))
    await asyncio.to_thread(stands.wait, 60)
    assert await two[1].write(increment) == 1
    goes_on.set()
    assert await slow == 2


async def test_the_time_is_the_databases_and_never_goes_back(url: str):
    db = postgres.opened(url)
    times = [await db.write(lambda tx: (increment(tx), tx.now())[1]) for _ in range(5)]
    assert times == sorted(times)
    assert abs(times[0] - datetime.now(UTC)) < timedelta(minutes=5)
    ahead = int((datetime.now(UTC) + timedelta(hours=1)).timestamp() * 1_000_000)
    await db.write(lambda tx: tx.execute("INSERT INTO writers VALUES ('x', 1, ?, 0)", (ahead,)))
    other = postgres.opened(url)
    assert await other.read(lambda tx: tx.now()) > datetime.now(UTC) + timedelta(minutes=50)
    for each in (db, other):
        await each.close()


async def test_claims_of_two_servers_are_judged_by_one_clock(two: tuple[PostgresDatabase, PostgresDatabase]):
    taken = await asyncio.gather(
        *(db.write(lambda tx, at=at: claims.take(tx, "work", f"server-{at}", 60)) for at, db in enumerate(two))
    )
    assert len([each for each in taken if each is not None]) == 1


async def test_a_time_that_is_scaled_is_not_written_as_the_databases_own(url: str):
    db = postgres.opened(url)
    db.use_scale(lambda now: now + timedelta(days=400))
    first = await db.write(lambda tx: (increment(tx), tx.now())[1])
    second = await db.write(lambda tx: (increment(tx), tx.now())[1])
    assert timedelta() < second - first < timedelta(minutes=5)
    assert first > datetime.now(UTC) + timedelta(days=399)
    await db.close()
