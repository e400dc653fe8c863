"""Copies of a database file, also of one that a server is using; and of an empty database, for those in memory."""

from contextlib import closing
from functools import cache
from pathlib import Path

from sqlite_utils import Database as SqliteUtils

from gpuproxy.store.migrations import migrations
from gpuproxy.store.sqlite.driver import sqlite3


def copy_to(copy: Path, origin: Path) -> None:
    """Write a consistent copy of the database `origin` to the empty file `copy`. Raises OSError.

    Both paths are absolute, because SQLite reads some relative ones as URIs.
    """
    try:
        with closing(sqlite3.connect(origin)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


def set_up_in_memory(connection: sqlite3.Connection) -> None:
    """Create the schema. It is a copy, because a simulation opens thousands of databases in memory."""
    _empty().backup(connection)


@cache
def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.isolation_level = None
    migrations.apply(SqliteUtils(connection, execute_plugins=False, strict=True))
    return connection
