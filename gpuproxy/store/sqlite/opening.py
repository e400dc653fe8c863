"""Opens the connections to a database: the writer, which sets the file up, and the readers."""

import queue
from contextlib import ExitStack, closing
from functools import cache

from sqlite_utils import Database as SqliteUtils

from gpuproxy.store.migrations import migrations
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.store.sqlite.location import DatabaseLocation, UnusableLocation

_STATEMENTS = 1000
"""So many prepared statements are kept. The program has a few hundred, and to prepare one with triggers is slow."""

_ATTEMPT_MS = 20
"""So long SQLite itself waits for a server's lock, at first 1 ms, then longer. A command asks again (`_begin`)."""


def open_writer(path: str, location: DatabaseLocation | None, resources: ExitStack, *, alone: bool) -> SqliteUtils:
    """The writer's connection. An empty database is set up. `resources` gets everything that must be closed."""
    if location is None:
        db = resources.enter_context(closing(_connect(path)))
        _migrated_once().backup(db.conn)
        db.execute("PRAGMA foreign_keys=ON")
        return db
    location.open()
    found = None if location.is_empty else resources.enter_context(closing(_open_existing(path, location)))
    location.lock(required=alone)
    if alone:
        location.make_private()
    db = found or resources.enter_context(closing(_connect(path)))
    _set_up(db)
    if location.locked:
        migrations.apply(db)
    if not alone:
        db.execute(f"PRAGMA busy_timeout={_ATTEMPT_MS}")
    return db


@cache
def _migrated_once() -> sqlite3.Connection:
    """The empty database that those in memory begin as: a simulation opens thousands."""
    db = _connect(":memory:")
    migrations.apply(db)
    return db.conn


def open_readers(path: str, resources: ExitStack, number: int) -> "queue.SimpleQueue[SqliteUtils]":
    """A connection for each reader. All are opened at once, because the path may name another file later."""
    idle: queue.SimpleQueue[SqliteUtils] = queue.SimpleQueue()
    for _ in range(number):
        db = resources.enter_context(closing(_connect(path)))
        _set_up(db)
        db.execute("PRAGMA query_only=ON")
        idle.put(db)
    return idle


def _connect(path: str) -> SqliteUtils:
    """A new connection. This changes nothing in the file."""
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False, cached_statements=_STATEMENTS)
    connection.isolation_level = None
    return SqliteUtils(connection, execute_plugins=False, strict=True)


def _open_existing(path: str, location: DatabaseLocation) -> SqliteUtils:
    """A connection to an existing database; raises UnusableLocation if it isn't ours."""
    with ExitStack() as resources:
        db = resources.enter_context(closing(_connect(path)))
        _require_ours(db)
        if not location.free_stuck_files():
            resources.pop_all()
            return db
    return _connect(path)


def _require_ours(db: SqliteUtils) -> None:
    """Raise UnusableLocation for another program's database."""
    if set(db.table_names()) - {migrations.migrations_table} and not migrations.applied(db):
        raise UnusableLocation("it is the database of another program; choose another path")


def _set_up(db: SqliteUtils) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA foreign_keys=ON")
