"""How many messages a unit of work needs on PostgreSQL, and what is in them."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from gpuproxy.ports import Tx
from gpuproxy.store import meta, totals
from gpuproxy.store.postgres import commits
from gpuproxy.store.postgres.database import PostgresDatabase
from gpuproxy.store.postgres.schema import TABLES
from gpuproxy.store.postgres.statements import changed_table, literal, read_tables, statement
from gpuproxy.store.postgres.triggers import FUNCTIONS, KEPT, TRIGGERS
from tests import postgres


@pytest.fixture
def db() -> PostgresDatabase:
    return postgres.opened(postgres.fresh())


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[bytes]]:
    """The messages before the one with the COMMIT."""
    seen: list[Sequence[bytes]] = []
    exchanged = commits.exchanged

    def noting(connection: Any, statements: Sequence[bytes]) -> Any:
        seen.append(statements)
        return exchanged(connection, statements)

    monkeypatch.setattr(commits, "exchanged", noting)
    return seen


async def test_the_beginning_and_what_is_said_ahead_go_with_the_first_query(
    db: PostgresDatabase, sent: list[Sequence[bytes]]
):
    def unit(tx: Tx) -> None:
        for key in "abc":
            meta.ahead(tx, key)
        for key in "abc":
            meta.read(tx, key)

    await db.write(unit)
    assert len(sent) == 1
    sent.clear()
    await db.read(unit)
    assert len(sent) == 1


async def test_a_query_that_was_not_said_ahead_is_a_message_of_its_own(
    db: PostgresDatabase, sent: list[Sequence[bytes]]
):
    await db.write(lambda tx: [meta.read(tx, key) for key in "abc"])
    assert len(sent) == 3


async def test_what_is_only_written_goes_with_the_next_query_or_the_commit(
    db: PostgresDatabase, sent: list[Sequence[bytes]]
):
    def unit(tx: Tx) -> None:
        tx.now()
        for key in "abc":
            meta.write(tx, key, "1")
        meta.read(tx, "a")
        for key in "abc":
            tx.write("UPDATE meta SET value = '2' WHERE key = ?", (key,), otherwise=LookupError(key))

    await db.write(unit)
    assert len(sent) == 2
    assert await db.read(lambda tx: [meta.read(tx, key) for key in "abc"]) == ["2", "2", "2"]


async def test_a_unit_that_writes_very_much_keeps_only_some_of_it(db: PostgresDatabase, sent: list[Sequence[bytes]]):
    await db.write(lambda tx: [meta.write(tx, f"{key}", "1") for key in range(1200)] and None)
    assert [len(each) >= 500 for each in sent] == [True, True]
    assert await db.read(lambda tx: tx.fetch("SELECT count(*) AS n FROM meta WHERE value = '1'")) == [{"n": 1200}]


async def test_sums_that_triggers_keep_are_not_read_ahead(db: PostgresDatabase):
    with pytest.raises(ValueError, match="triggers"):
        await db.write(lambda tx: tx.ahead("SELECT number FROM lease_counts WHERE number > 0"))
    await db.read(totals.spending)


def test_every_table_that_only_triggers_change_is_known():
    """A trigger changes these, or the table that its own statement has changed."""
    words = "; ".join((*TRIGGERS, *FUNCTIONS))
    names = {table.split("(")[0].split()[2] for table in TABLES}
    changed = {name for name in names if f"UPDATE {name} " in words or f"INTO {name} " in words}
    assert changed == KEPT | {"leases"}


@pytest.mark.parametrize(
    "value",
    [None, 0, -1, 2**62, True, 0.5, -1e-9, 1e300, "", "it's", "a\\b", "\\'; --", "%s ? {}", "é\u2028😀", "a\nb"],
)  # fmt: skip
def test_a_literal_is_read_as_the_value(value: Any):
    with psycopg.connect(postgres.fresh(), autocommit=True) as connection:
        for strings in ("on", "off"):
            connection.execute(f"SET standard_conforming_strings = {strings}")
            row = connection.execute(f"SELECT 5 -{literal(1)}, {literal(value)} AS value".encode()).fetchone()
            assert row is not None
            assert row[0] == 4
            assert (None if row[1] is None else type(value)(row[1])) == value


def test_values_that_do_not_fit_are_refused():
    for sql, params in (("SELECT ?", ()), ("SELECT 1", (1,)), ("SELECT ?", (object(),)), ("SELECT ?", (b"",))):
        with pytest.raises(psycopg.ProgrammingError):
            statement(sql, params)


def test_a_mark_within_a_text_is_no_value():
    assert statement("SELECT '?', ? FROM a WHERE b LIKE '%'", ("x",)) == b"SELECT '?', 'x' FROM a WHERE b LIKE '%'"


@pytest.mark.parametrize(
    ("sql", "changed", "read"),
    [
        ("INSERT INTO a (b) SELECT c FROM d", "a", {"d"}),
        ("UPDATE a SET b = 1", "a", set()),
        ("DELETE FROM a WHERE b IN (SELECT b FROM c)", "a", {"a", "c"}),
        ("SELECT * FROM a CROSS JOIN b ON TRUE WHERE EXISTS (SELECT 1 FROM c)", "", {"a", "b", "c"}),
    ],
)
def test_the_tables_of_a_statement_are_known(sql: str, changed: str, read: set[str]):
    assert changed_table(sql) == changed
    assert read_tables(sql) == read
