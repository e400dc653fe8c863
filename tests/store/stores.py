"""The stores that must pass the contract suite. A further store is one more entry of `STORES`."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from gpuproxy.ports import Database
from gpuproxy.store.postgres.database import PostgresDatabase
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests import pgbouncer, postgres
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
    exclusive: bool
    """No other process can use the database."""

    def open(self) -> Database:
        """The database of the one process of the test."""

    def crashed(self) -> Database:
        """The database as the next process would find it if the process died now, perhaps within a unit.

        It is another database from then on: what is written to it does not change that of `open`.
        """


class SqliteStore:
    """A file. What a dead process leaves is what the file system has: all that it has written, synchronised or not."""

    reads_beside_writes = True
    exclusive = True

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
    exclusive = True

    def __init__(self, _folder: Path) -> None:
        self.clock = ManualClock()
        self._db = MemoryDatabase(self.clock)

    def open(self) -> MemoryDatabase:
        return self._db

    def crashed(self) -> MemoryDatabase:
        return self._db.crashed(self.clock)


class PostgresStore:
    """A database of a PostgreSQL server. What a dead process leaves is what another connection sees."""

    reads_beside_writes = True
    exclusive = False
    threads = True

    def __init__(self, _folder: Path) -> None:
        self.clock = ManualClock()
        self._url = postgres.fresh()

    def open(self) -> PostgresDatabase:
        return self._opened(self._url)

    def crashed(self) -> PostgresDatabase:
        return self._opened(postgres.copied(self._url))

    def _opened(self, url: str) -> PostgresDatabase:
        db = postgres.opened(url, threads=self.threads)
        db.use_clock(self.clock)
        return db


class InlinePostgresStore(PostgresStore):
    """The same without threads, as the stories in virtual time use it."""

    reads_beside_writes = False
    threads = False


class PooledPostgresStore(PostgresStore):
    """The same through PgBouncer in transaction mode: each transaction may be on another connection."""

    def _opened(self, url: str) -> PostgresDatabase:
        return super()._opened(pgbouncer.through(url))


STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": SqliteStore,
    "sqlite without threads": InlineSqliteStore,
    "memory": MemoryStore,
    "postgres": PostgresStore,
    "postgres without threads": InlinePostgresStore,
    "postgres through pgbouncer": PooledPostgresStore,
}
