"""The stores that must pass the contract suite. A further store is one more entry of `STORES`."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from gpuproxy.ports import Database
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests.store.in_memory import MemoryDatabase


class ManualClock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.at = datetime(2026, 6, 12, 12, 0, 0, 123456, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Store(Protocol):
    """One store for one test. `clock` is what its `Tx.now` reads."""

    clock: ManualClock
    reads_beside_writes: bool
    """A read goes on while another unit is written. Otherwise both wait for each other."""

    def open(self) -> Database:
        """The database of the one process of the test."""

    def crashed(self) -> Database:
        """The database as the next process would find it if the process died now, perhaps within a unit.

        It is another database from then on: what is written to it does not change that of `open`.
        """


class SqliteStore:
    """A file. What a dead process leaves is what the file system has: all that it has written, synchronised or not."""

    reads_beside_writes = True

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self._folder = folder
        self._copies = 0

    def open(self) -> SqliteDatabase:
        return SqliteDatabase(str(self._folder / "books.db"), self.clock)

    def crashed(self) -> SqliteDatabase:
        self._copies += 1
        folder = self._folder / f"crash-{self._copies}"
        folder.mkdir()
        for end in ("", "-wal"):
            shutil.copy(self._folder / f"books.db{end}", folder / f"books.db{end}")
        return SqliteDatabase(str(folder / "books.db"), self.clock)


class InlineSqliteStore(SqliteStore):
    """The same without threads, as the stories in virtual time use it."""

    reads_beside_writes = False

    def open(self) -> SqliteDatabase:
        return SqliteDatabase(str(self._folder / "books.db"), self.clock, threads=False)


class MemoryStore:
    """Rows in memory, as simple as a store can be."""

    reads_beside_writes = False

    def __init__(self, _folder: Path) -> None:
        self.clock = ManualClock()
        self._db = MemoryDatabase(self.clock)

    def open(self) -> MemoryDatabase:
        return self._db

    def crashed(self) -> MemoryDatabase:
        return self._db.crashed(self.clock)


STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": SqliteStore,
    "sqlite without threads": InlineSqliteStore,
    "memory": MemoryStore,
}
