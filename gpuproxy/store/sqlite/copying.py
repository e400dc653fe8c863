"""Copies of a database file, also of one that a server is using."""

from contextlib import closing
from pathlib import Path

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
