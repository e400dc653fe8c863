"""The SQLite driver: one module for all code, and whether its library can lose commits."""

import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3 as of_sqlite_utils

from gpuproxy.store.sqlite import driver
from gpuproxy.store.sqlite.database import SqliteDatabase


@pytest.mark.parametrize(
    ("version", "vulnerable"),
    [
        ((3, 6, 23), False),  # has no WAL
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 43, 2), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 44, 7), False),
        ((3, 45, 0), True),
        ((3, 49, 9), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 50, 8), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_a_library_is_vulnerable_from_the_first_wal_version_to_the_fix_of_its_branch(
    version: tuple[int, int, int], vulnerable: bool
) -> None:
    assert driver.is_vulnerable(version) is vulnerable


async def test_the_driver_is_the_module_that_sqlite_utils_uses(tmp_path: Path) -> None:
    assert driver.sqlite3 is of_sqlite_utils
    db = SqliteDatabase(str(tmp_path / "books.db"), lambda: datetime.now(UTC))
    assert isinstance(db._writer.conn, driver.sqlite3.Connection)
    assert await db.read(lambda tx: tx.fetch("SELECT sqlite_version() AS v")) == [
        {"v": ".".join(map(str, driver.VERSION))}
    ]
    await db.close()


@pytest.mark.skipif(
    (sys.platform, platform.machine()) not in {("linux", "x86_64"), ("darwin", "arm64")},
    reason="there is no wheel with an SQLite of its own for this platform",
)
def test_what_requirements_lock_installs_is_not_vulnerable() -> None:
    assert driver.sqlite3.__name__ == "pysqlite3"
    assert not driver.is_vulnerable(driver.VERSION)
