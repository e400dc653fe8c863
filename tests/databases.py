"""The database of a story in virtual time: SQLite in memory, or PostgreSQL with TEST_STORE=postgres."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest

from gpuproxy.store.postgres.database import PostgresDatabase
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests import past, postgres

AnyDatabase = SqliteDatabase | PostgresDatabase

ON_POSTGRES = os.environ.get("TEST_STORE", "sqlite") == "postgres"
sqlite_only = pytest.mark.skipif(ON_POSTGRES, reason="it is about SQLite alone")
"""Tests of what only SQLite has: its file, its errors, its query plans."""


def opened(now: Callable[[], datetime]) -> AnyDatabase:
    """A new empty database, used on the caller's thread. Its units have the time `now()`."""
    if not ON_POSTGRES:
        return SqliteDatabase(":memory:", now, threads=False)
    db = postgres.opened(postgres.fresh())
    db.use_clock(now)
    return db


def rows(db: AnyDatabase, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement outside of any unit, and return its rows."""
    if isinstance(db, SqliteDatabase):
        return [tuple(row) for row in db._writer.conn.execute(sql, params)]
    return postgres.rows(db, sql, params)


def named(db: AnyDatabase, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The same, each row by the names of its columns."""
    if isinstance(db, SqliteDatabase):
        cursor = db._writer.conn.execute(sql, params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
    return postgres.named(db, sql, params)


def fill(db: AnyDatabase, number: int, since: datetime, until: datetime) -> None:
    """Insert finished reservations of the past: see `past.batches`."""
    if isinstance(db, SqliteDatabase):
        past.fill(db._writer.conn, number, since, until)
        return
    for batch in past.batches(number, since, until):
        for table, values in batch.items():
            postgres.insert(db, table, values)
