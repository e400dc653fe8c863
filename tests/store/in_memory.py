"""A second, simple store: one SQLite connection in memory, one unit at a time, no threads, no files.

It shows what the database port promises without everything that makes a store fast or durable on a disk. It is
exclusive unless it is told otherwise, so tests can use it as a database that several processes share.
"""

import asyncio
import sqlite3 as _types  # noqa: TID251 - for annotations only
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from contextvars import copy_context
from datetime import datetime
from typing import Any, TypeVar

import structlog
from sqlite_utils import Database as SqliteUtils

from gpuproxy.model.errors import StatementRefused, Unavailable
from gpuproxy.store.migrations import migrations
from gpuproxy.store.sqlite import errors
from gpuproxy.store.sqlite.driver import sqlite3

T = TypeVar("T")
log = structlog.get_logger(__name__)


class MemoryTx:
    """The Tx port."""

    def __init__(self, connection: _types.Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now
        self.topics: list[str] = []
        self.callbacks: list[Callable[[], None]] = []
        self.failure: Exception | None = None

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self._cursor(sql, params).rowcount

    def write(self, sql: str, params: Sequence[Any] = (), *, otherwise: Exception | None = None) -> None:
        if self.execute(sql, params) == 0 and otherwise is not None:
            raise otherwise

    def ahead(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Nothing is read before it is asked."""

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        cursor = self._cursor(sql, params)
        return [dict(zip((column[0] for column in cursor.description), row, strict=True)) for row in cursor.fetchall()]

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        return next(iter(self.fetch(sql, params)), None)

    def now(self) -> datetime:
        return self._now

    def changed(self, topic: str) -> None:
        self.topics.append(topic)

    def after_commit(self, call: Callable[[], None]) -> None:
        self.callbacks.append(call)

    def lasting(self) -> bool:
        return True

    def before_spending(self) -> None:
        """There is no disk that could be full."""

    def _cursor(self, sql: str, params: Sequence[Any]) -> _types.Cursor:
        if self.failure is not None:
            raise StatementRefused("an earlier statement of this unit has failed") from self.failure
        try:
            return self._connection.execute(sql, params)
        except sqlite3.Error as error:
            self.failure = errors.of_statement(error)
            raise self.failure from error


class MemoryDatabase:
    """The Database port."""

    def __init__(
        self, now: Callable[[], datetime], *, exclusive: bool = True, stored: _types.Connection | None = None
    ) -> None:
        """`stored` has the rows to begin with; they are copied."""
        self.exclusive = exclusive
        self._now = now
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._committed = sqlite3.connect(":memory:")
        """What a process finds that starts now."""
        if stored is not None:
            stored.backup(self._connection)
        self._connection.execute("PRAGMA foreign_keys=ON")
        migrations.apply(SqliteUtils(self._connection, execute_plugins=False))
        self._connection.backup(self._committed)
        self._watchers: dict[str, list[_Wakeups]] = {}

    async def write(self, fn: Callable[[MemoryTx], T]) -> T:
        tx = MemoryTx(self._connection, self._now())
        try:
            self._connection.execute("SAVEPOINT unit")
        except sqlite3.Error as error:
            raise Unavailable("The database is closed.", reason="DATABASE") from error
        try:
            result = _result(fn, tx)
        except BaseException:
            self._connection.execute("ROLLBACK TO unit")
            self._connection.execute("RELEASE unit")
            raise
        self._connection.execute("RELEASE unit")
        self._connection.backup(self._committed)
        context = copy_context()
        for call in tx.callbacks:
            context.run(_call_safely, call)
        self._publish(tx.topics)
        return result

    async def read(self, fn: Callable[[MemoryTx], T]) -> T:
        return _result(fn, MemoryTx(self._connection, self._now()))

    @asynccontextmanager
    async def watch(self, topic: str) -> "AsyncIterator[_Wakeups]":
        wakeups = _Wakeups()
        self._watchers.setdefault(topic, []).append(wakeups)
        try:
            yield wakeups
        finally:
            self._watchers[topic].remove(wakeups)

    async def close(self) -> None:
        self._connection.close()

    def crashed(self, now: Callable[[], datetime]) -> "MemoryDatabase":
        """The database as the next process finds it if this one dies now."""
        with closing(sqlite3.connect(":memory:")) as copy:
            self._committed.backup(copy)
            return MemoryDatabase(now, exclusive=self.exclusive, stored=copy)

    def _publish(self, topics: Sequence[str]) -> None:
        for topic in topics:
            for wakeups in self._watchers.get(topic, ()):
                wakeups.event.set()


def _result(fn: Callable[[MemoryTx], T], tx: MemoryTx) -> T:
    result = fn(tx)
    if tx.failure is not None:
        raise tx.failure
    return result


def _call_safely(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("commit_callback_failed")


class _Wakeups:
    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        await self.event.wait()
        self.event.clear()
