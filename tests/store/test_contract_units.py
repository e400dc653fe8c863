"""The contract of the database port: units of work. Each store of `stores` must pass it."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuproxy.model.errors import StatementRefused, Taken, Unavailable
from gpuproxy.ports import Database, Tx
from gpuproxy.store import meta
from tests.store.stores import Store

_TOO_LONG = 60.0
"""Real seconds after which a test that waits for a thread fails."""


async def value(db: Database, key: str) -> str | None:
    return await db.read(lambda tx: meta.read(tx, key))


def writes(key: str, text: str = "1") -> Callable[[Tx], None]:
    return lambda tx: meta.write(tx, key, text)


# -- crashes


async def test_what_was_answered_survives_a_crash_and_what_was_not_is_whole_or_missing(store: Store, db: Database):
    """The process dies within each unit, right after its commit, and right after its answer."""
    found: dict[str, Database] = {}

    def unit(number: int) -> Callable[[Tx], None]:
        def write(tx: Tx) -> None:
            meta.write(tx, f"left {number}", "x" * 3000)
            found[f"within {number}"] = store.crashed()
            meta.write(tx, f"right {number}", "x" * 3000)
            tx.after_commit(lambda: found.update({f"committed {number}": store.crashed()}))

        return write

    for number in range(5):
        await db.write(unit(number))
        found[f"answered {number}"] = store.crashed()
    assert len(found) == 15
    for point, left in found.items():
        when, _, number = point.partition(" ")
        whole = int(number) + (when != "within")
        rows = await left.read(lambda tx: {row["key"] for row in tx.fetch("SELECT key FROM meta")})
        assert rows == {f"{side} {n}" for side in ("left", "right") for n in range(whole)}, point
        await left.write(writes("works"))
        await left.close()


async def test_close_finishes_the_units_that_were_given_before(store: Store, tmp_path):
    db = store.open()
    tasks = [asyncio.ensure_future(db.write(writes(f"k{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await db.close()
    await asyncio.gather(*tasks)


# -- isolation


async def test_a_unit_that_fails_leaves_nothing_and_affects_no_other(db: Database):
    def bad(tx: Tx) -> None:
        meta.write(tx, "bad", "1")
        raise LookupError("no")

    units = [db.write(writes(f"k{n}")) for n in range(50)]
    results = await asyncio.gather(*units[:25], db.write(bad), *units[25:], return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [LookupError]
    assert await value(db, "bad") is None
    rows = await db.read(lambda tx: tx.fetch("SELECT key FROM meta"))
    assert len(rows) == 50


async def test_what_a_unit_raises_reaches_its_caller_unchanged(db: Database):
    raised = LookupError("mine")

    def bad(tx: Tx) -> None:
        raise raised

    for act in (db.write, db.read):
        with pytest.raises(LookupError) as found:
            await act(bad)
        assert found.value is raised


async def test_a_unit_sees_its_own_writes_and_its_result_is_returned(db: Database):
    def write(tx: Tx) -> str | None:
        meta.write(tx, "a", "1")
        return meta.read(tx, "a")

    assert await db.write(write) == "1"


async def test_units_are_serialised(db: Database):
    def increment(tx: Tx) -> None:
        meta.write(tx, "n", str(int(meta.read(tx, "n") or "0") + 1))

    await asyncio.gather(*(db.write(increment) for _ in range(100)))
    assert await value(db, "n") == "100"


async def test_a_reader_sees_all_of_a_unit_or_none_of_it(store: Store, db: Database):
    """The unit is written between two statements of the reader, if the store can do that."""
    await db.write(writes("a", "before"))
    begun, written = threading.Event(), threading.Event()

    def read(tx: Tx) -> tuple[str | None, str | None]:
        first = meta.read(tx, "a")
        begun.set()
        if store.reads_beside_writes:
            assert written.wait(_TOO_LONG)
        return first, meta.read(tx, "a")

    reading = asyncio.ensure_future(db.read(read))
    while not begun.is_set():  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0)
    await db.write(writes("a", "after"))
    written.set()
    assert await reading == ("before", "before")
    assert await value(db, "a") == "after"


async def test_a_cancelled_caller_leaves_a_whole_unit_or_nothing(db: Database):
    def write(tx: Tx) -> None:
        meta.write(tx, "left", "1")
        meta.write(tx, "right", "1")

    task = asyncio.ensure_future(db.write(write))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await db.write(writes("next"))
    assert await value(db, "left") == await value(db, "right")
    assert await value(db, "next") == "1"


async def test_a_unit_that_is_run_again_counts_once(db: Database):
    """The store or a caller may do so; what an earlier run did is gone, with its topics and callbacks."""
    seen: list[str] = []

    def write(tx: Tx) -> None:
        meta.write(tx, "n", str(int(meta.read(tx, "n") or "0") + 1))
        tx.after_commit(lambda: seen.append("called"))
        tx.changed("topic")

    def interrupted(tx: Tx) -> None:
        write(tx)
        raise LookupError

    async with db.watch("topic") as wakeups:
        with pytest.raises(LookupError):
            await db.write(interrupted)
        waiting = asyncio.ensure_future(wakeups.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        await db.write(write)
        await waiting
    assert (await value(db, "n"), seen) == ("1", ["called"])


# -- errors

_KEY = "INSERT INTO ssh_keys (id, project, name, public_key, fingerprint, created_at) VALUES (?, ?, '', '', ?, 0)"


@pytest.mark.parametrize(
    ("second", "columns"),
    [(("k1", "p2", "f2"), ("id",)), (("k2", "p1", "f1"), ("project", "fingerprint")), (("k2", "p2", "f1"), None)],
)
async def test_a_unique_value_that_is_in_use_is_named(db: Database, second: Any, columns: Any):
    await db.write(lambda tx: tx.execute(_KEY, ("k1", "p1", "f1")))
    if columns is None:
        assert await db.write(lambda tx: tx.execute(_KEY, second)) == 1
        return
    with pytest.raises(Taken) as taken:
        await db.write(lambda tx: tx.execute(_KEY, second))
    assert (taken.value.table, taken.value.columns) == ("ssh_keys", columns)
    assert len(await db.read(lambda tx: tx.fetch("SELECT id FROM ssh_keys"))) == 1


_REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "not null": ("INSERT INTO meta (key, value) VALUES ('a', NULL)", ()),
    "a wrong type": ("INSERT INTO exhausted (provider, scope, key, until) VALUES ('p', 's', 'k', 'soon')", ()),
    "a foreign key": ("INSERT INTO holds (provider, key, lease_id) VALUES ('p', 'k', 'none')", ()),
    "no such table": ("DELETE FROM nothing", ()),
    "no statement": ("SELEC 1", ()),
    "too few parameters": ("INSERT INTO meta (key, value) VALUES (?, ?)", ("a",)),
    "a value that is no value": ("INSERT INTO meta (key, value) VALUES ('a', ?)", (object(),)),
}


@pytest.mark.parametrize("name", _REFUSED)
async def test_a_statement_with_a_bug_is_refused_and_the_database_goes_on(db: Database, name: str):
    sql, params = _REFUSED[name]

    def write(tx: Tx) -> None:
        meta.write(tx, "before", "1")
        tx.execute(sql, params)

    with pytest.raises(StatementRefused) as refused:
        await db.write(write)
    assert not isinstance(refused.value, Unavailable)  # it is not repeated
    assert await value(db, "before") is None
    await db.write(writes("after"))
    assert await value(db, "after") == "1"


async def test_a_query_with_a_bug_is_refused_and_the_database_goes_on(db: Database):
    for fetch in (lambda tx: tx.fetch("SELECT x FROM meta"), lambda tx: tx.fetch_one("SELECT x FROM meta")):
        with pytest.raises(StatementRefused):
            await db.read(fetch)
    assert await value(db, "a") is None


async def test_a_unit_fails_even_if_it_passes_over_an_error(db: Database):
    await db.write(lambda tx: tx.execute(_KEY, ("k1", "p1", "f1")))

    def careless(tx: Tx) -> None:
        with suppress(Taken):
            tx.execute(_KEY, ("k1", "p1", "f1"))

    def stubborn(tx: Tx) -> None:
        careless(tx)
        meta.write(tx, "a", "1")

    with pytest.raises(Taken):
        await db.write(careless)
    with pytest.raises(StatementRefused):
        await db.write(stubborn)
    assert await value(db, "a") is None


async def test_a_unit_may_turn_an_error_into_its_own(db: Database):
    await db.write(lambda tx: tx.execute(_KEY, ("k1", "p1", "f1")))

    def write(tx: Tx) -> None:
        try:
            tx.execute(_KEY, ("k1", "p1", "f1"))
        except Taken:
            raise LookupError from None

    with pytest.raises(LookupError):
        await db.write(write)


# -- values and time


async def test_values_are_read_as_they_were_written(db: Database):
    def write(tx: Tx) -> list[int]:
        sql = "INSERT INTO exhausted (provider, scope, key, until) VALUES (?, 'a', ?, ?)"
        rows = [("p", "k1", 2**62), ("ÄŒ日本\n", "k2", -(2**62))]
        tx.execute("INSERT INTO rotations VALUES ('s', NULL, 1, '[]', 1)")
        return [tx.execute(sql, row) for row in rows]

    assert await db.write(write) == [1, 1]
    rows = await db.read(lambda tx: tx.fetch("SELECT provider, until FROM exhausted ORDER BY key"))
    assert [(row["provider"], row["until"]) for row in rows] == [("p", 2**62), ("ÄŒ日本\n", -(2**62))]
    found = await db.read(lambda tx: tx.fetch_one("SELECT last, 0.1 AS x FROM rotations"))
    assert found is not None
    assert dict(found) == {"last": None, "x": 0.1}
    assert await db.read(lambda tx: tx.fetch_one("SELECT 1 AS one FROM leases")) is None


async def test_execute_returns_the_number_of_changed_rows(db: Database):
    await db.write(writes("a"))
    await db.write(writes("b"))
    change = "UPDATE meta SET value = '2' WHERE key >= ?"
    assert [await db.write(lambda tx, k=k: tx.execute(change, (k,))) for k in ("a", "b", "c")] == [2, 1, 0]


async def test_the_time_is_one_value_for_each_unit_on_the_databases_clock(store: Store, db: Database):
    def twice(tx: Tx) -> tuple[datetime, datetime]:
        first = tx.now()
        store.clock.advance(1)
        return first, tx.now()

    for act in (db.write, db.read):
        before = store.clock.at
        first, second = await act(twice)
        assert first == second == before
        assert first.tzinfo is UTC
        assert store.clock.at == before + timedelta(seconds=1)


async def test_the_time_of_a_unit_is_that_of_its_run_and_not_of_its_call(store: Store, db: Database):
    """Otherwise a claim could be over although the unit that waits for its turn does not see it."""
    first = asyncio.ensure_future(db.write(lambda tx: store.clock.advance(5)))
    second = asyncio.ensure_future(db.write(lambda tx: tx.now()))
    await first
    assert await second == store.clock.at


async def test_a_database_of_one_process_says_so_and_a_shared_one_does_not(store: Store, db: Database):
    assert db.exclusive == store.exclusive
    assert await db.read(lambda tx: (tx.lasting(), tx.before_spending())) == (True, None)
