"""The contract of the database port: statements whose result nobody needs, and queries that are said ahead."""

import asyncio
from collections.abc import Callable

import pytest

from gpuproxy.model.errors import StatementRefused, Taken
from gpuproxy.ports import Database, Tx
from gpuproxy.store import meta

_SET = "UPDATE meta SET value = ? WHERE key = ?"
_KEY = "INSERT INTO ssh_keys (id, project, name, public_key, fingerprint, created_at) VALUES (?, ?, '', '', ?, 0)"


async def value(db: Database, key: str) -> str | None:
    return await db.read(lambda tx: meta.read(tx, key))


def writes(key: str, text: str = "1") -> Callable[[Tx], None]:
    return lambda tx: meta.write(tx, key, text)


async def test_a_query_finds_what_the_unit_has_written_before_in_order(db: Database):
    def write(tx: Tx) -> list[str | None]:
        tx.write("INSERT INTO meta (key, value) VALUES ('a', '1')")
        tx.write(_SET, ("2", "a"))
        found = [meta.read(tx, "a")]
        tx.write(_SET, ("3", "a"))
        return [*found, meta.read(tx, "a")]

    assert await db.write(write) == ["2", "3"]
    assert await value(db, "a") == "3"


async def test_a_write_that_was_to_change_a_row_and_does_not_fails_its_unit_and_no_other(db: Database):
    await db.write(writes("known"))

    def change(key: str) -> Callable[[Tx], None]:
        def unit(tx: Tx) -> None:
            meta.write(tx, f"beside {key}", "1")
            tx.write(_SET, ("changed", key), otherwise=LookupError(key))

        return unit

    results = await asyncio.gather(*(db.write(change(key)) for key in ("a", "known", "b")), return_exceptions=True)
    assert [repr(each) for each in results] == ["LookupError('a')", "None", "LookupError('b')"]
    stored = await db.read(lambda tx: {row["key"]: row["value"] for row in tx.fetch("SELECT key, value FROM meta")})
    assert stored == {"known": "changed", "beside known": "1"}


async def test_a_unit_that_goes_on_after_such_a_write_fails_too(db: Database):
    def write(tx: Tx) -> str | None:
        tx.write(_SET, ("1", "none"), otherwise=LookupError("none"))
        meta.write(tx, "a", "1")
        return meta.read(tx, "a")

    with pytest.raises(LookupError):
        await db.write(write)
    assert await value(db, "a") is None


@pytest.mark.parametrize("name", ["foreign key", "bug", "values"])
async def test_a_write_that_is_refused_fails_its_unit_and_no_other(db: Database, name: str):
    sql, params = {
        "foreign key": ("INSERT INTO holds (provider, key, lease_id) VALUES ('p', 'k', 'none')", ()),
        "bug": ("DELETE FROM nothing", ()),
        "values": ("INSERT INTO meta (key, value) VALUES (?, ?)", ("a",)),
    }[name]

    def refused(tx: Tx) -> None:
        meta.write(tx, "beside", "1")
        tx.write(sql, params)

    units = (writes("before"), refused, writes("after"))
    results = await asyncio.gather(*map(db.write, units), return_exceptions=True)
    assert [type(each) for each in results] == [type(None), StatementRefused, type(None)]
    assert [await value(db, key) for key in ("before", "beside", "after")] == ["1", None, "1"]


async def test_a_value_in_use_is_named_by_a_write_too(db: Database):
    await db.write(lambda tx: tx.write(_KEY, ("k1", "p1", "f1")))
    with pytest.raises(Taken) as taken:
        await db.write(lambda tx: tx.write(_KEY, ("k2", "p1", "f1")))
    assert (taken.value.table, taken.value.columns) == ("ssh_keys", ("project", "fingerprint"))


async def test_what_is_read_ahead_is_what_the_query_would_find_when_it_is_made(db: Database):
    await db.write(writes("a", "old"))
    await db.write(writes("b", "old"))

    def write(tx: Tx) -> list[str | None]:
        meta.ahead(tx, "a")
        meta.ahead(tx, "b")
        meta.ahead(tx, "none")
        meta.write(tx, "a", "first")
        found = [meta.read(tx, "b"), meta.read(tx, "a")]
        tx.execute(_SET, ("second", "a"))
        meta.write(tx, "b", "second")
        return [*found, meta.read(tx, "a"), meta.read(tx, "b"), meta.read(tx, "none")]

    assert await db.write(write) == ["old", "first", "second", "second", None]


async def test_what_was_read_ahead_for_a_unit_is_not_known_to_the_next_one(db: Database):
    def read(tx: Tx) -> str | None:
        meta.ahead(tx, "a")
        return meta.read(tx, "a")

    assert await db.write(read) is None
    await db.write(writes("a"))
    assert (await db.write(read), await db.read(read)) == ("1", "1")
