"""The Database port over SQLite: one process with one writer thread (group commit) and a few reader threads.

Units of work that arrive during a commit share the next one. Each unit runs in its own savepoint, so that a failed
unit doesn't affect others. A caller is answered after the common commit is on disk (WAL, synchronous=FULL). A lock on
the database file keeps other servers out; therefore a server may take over unfinished work that it finds in it.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import structlog
from sqlite_utils import Database as SqliteUtils

from gpuproxy.model.errors import DiskFull, StatementRefused, Unavailable
from gpuproxy.store.migrations import migrations
from gpuproxy.store.sqlite import errors
from gpuproxy.store.sqlite.ballast import Ballast
from gpuproxy.store.sqlite.copying import set_up_in_memory
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.store.sqlite.location import DatabaseLocation, UnusableLocation

log = structlog.get_logger(__name__)
T = TypeVar("T")

_BATCH = 64
_READERS = 2
_BALLAST_RETRY = timedelta(seconds=10)


@dataclass(slots=True)
class _Unit:
    """One unit of work that waits to be written."""

    fn: Callable[["SqliteTx"], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    topics: tuple[str, ...] = ()
    callbacks: tuple[Callable[[], None], ...] = ()
    context: Context = field(default_factory=copy_context)

    @property
    def hit_full_disk(self) -> bool:
        """True if the unit failed because the disk is full."""
        return isinstance(self.error, DiskFull) and self.error.__cause__ is not None


class SqliteTx:
    """The Tx port: one transaction on one connection."""

    def __init__(
        self, db: SqliteUtils, now: datetime, *, location: DatabaseLocation | None, has_space: bool = True
    ) -> None:
        self._db = db
        self._now = now
        self._location = location
        self._has_space = has_space
        self.topics: list[str] = []
        self.callbacks: list[Callable[[], None]] = []
        self.failure: Exception | None = None
        """The error of the first statement that failed. No further statement is executed."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of changed rows."""
        return int(self._answer(sql, params, lambda cursor: cursor.rowcount))

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """Run a query; returns all rows."""
        return cast("list[Mapping[str, Any]]", self._answer(sql, params, _rows))

    def _answer(self, sql: str, params: Sequence[Any], read: Callable[[sqlite3.Cursor], Any]) -> Any:
        if self.failure is not None:  # SQLite may have ended the transaction, and would commit each further statement
            raise StatementRefused("an earlier statement of this unit has failed") from self.failure
        try:
            return read(self._db.execute(sql, params))
        except sqlite3.Error as error:
            self.failure = errors.of_statement(error)
            raise self.failure from error

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """Run a query; returns the first row, or None if there is none."""
        rows = self.fetch(sql, params)
        return rows[0] if rows else None

    def now(self) -> datetime:
        """The time of this unit of work, in aware UTC and whole microseconds."""
        return self._now

    def changed(self, topic: str) -> None:
        """Wake the watchers of `topic` after this unit is committed."""
        self.topics.append(topic)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call `call` on the event loop after this unit is committed, once. It isn't called if the unit fails."""
        self.callbacks.append(call)

    def lasting(self) -> bool:
        """False while the database's path names other files than the open ones: what is written would be lost."""
        return self._location is None or self._location.files_unchanged()

    def before_spending(self) -> None:
        """Raise Unavailable if nothing may be rented: the disk is full, or the database files were replaced."""
        if not self._has_space:
            raise errors.disk_full()
        if not self.lasting():
            raise errors.files_changed()


def _result(fn: Callable[[SqliteTx], T], tx: SqliteTx) -> T:
    """The result of a unit; raises the error of a statement even if the unit has passed over it."""
    result = fn(tx)
    if tx.failure is not None:
        raise tx.failure
    return result


def _rows(cursor: sqlite3.Cursor) -> list[Mapping[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


class _Wakeups:
    """The wakeups of one watcher."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next change; returns at once if there was one since the last call."""
        await self.event.wait()
        self.event.clear()


class SqliteDatabase:
    """The Database port over one SQLite file. For simulations, `path` is ":memory:" and `threads` is False."""

    def __init__(
        self,
        path: str,
        now: Callable[[], datetime],
        *,
        threads: bool = True,
        alone: bool = True,
        ballast: Ballast | None = None,
    ) -> None:
        """Open the database; create or migrate it if necessary. `now` gives the time of transactions.

        Raises DatabaseLocked if another server uses it, and UnusableLocation if the path can't hold our database or it
        can't be opened.
        With `alone=False`, a server may use it at the same time; that is for commands that change a few rows.
        """
        self._now = now
        self._ballast = ballast
        self._retake_ballast_at = datetime.min.replace(tzinfo=UTC)
        with ExitStack() as resources:
            # The location is entered first, so that it is closed last. locks.Handle says why.
            self._location = (
                None if path == ":memory:" else resources.enter_context(closing(DatabaseLocation(Path(path))))
            )
            path = str(self._location.path) if self._location else path
            try:
                self._writer = _open(path, self._location, resources, alone=alone)
                self._idle_readers = _open_readers(path, resources, _READERS if threads else 0)
            except sqlite3.Error as error:
                raise UnusableLocation(str(error)) from error
            if self._location is not None:
                self._location.remember_files()
            self._resources = resources.pop_all()
        self._watchers: dict[str, list[_Wakeups]] = {}
        self._queue: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._reader_pool: ThreadPoolExecutor | None = None
        if threads:
            self._thread = threading.Thread(target=self._write_forever, name="gpuproxy-writer", daemon=True)
            self._thread.start()
            self._reader_pool = ThreadPoolExecutor(_READERS, "gpuproxy-reader")

    @property
    def exclusive(self) -> bool:
        """True if this object has the lock on the database file: no other server uses the database."""
        return self._location is None or self._location.locked

    def use_clock(self, now: Callable[[], datetime]) -> None:
        """Use `now` as the time of transactions from now on."""
        self._now = now

    async def write(self, fn: Callable[[SqliteTx], T]) -> T:
        """Run `fn` in a transaction. When this returns, the changes are on disk."""
        loop = asyncio.get_running_loop()
        unit = _Unit(fn, loop, loop.create_future())
        if self._thread is None:
            self._commit([unit])
            self._publish([unit])
        else:
            self._queue.put(unit)
        return cast("T", await unit.done)

    async def read(self, fn: Callable[[SqliteTx], T]) -> T:
        """Run `fn` in a read transaction, on a consistent snapshot."""
        if self._reader_pool is None:
            return _result(fn, SqliteTx(self._writer, self._now(), location=self._location))
        return await asyncio.get_running_loop().run_in_executor(self._reader_pool, self._read, fn)

    @asynccontextmanager
    async def watch(self, topic: str) -> AsyncIterator[_Wakeups]:
        """Subscribe to the changes of a topic, from now on."""
        wakeups = _Wakeups()
        self._watchers.setdefault(topic, []).append(wakeups)
        try:
            yield wakeups
        finally:
            self._watchers[topic].remove(wakeups)
            if not self._watchers[topic]:
                del self._watchers[topic]

    async def close(self) -> None:
        """Finish the queued writes and close all files."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        if self._reader_pool is not None:
            self._reader_pool.shutdown()
        self._resources.close()

    def _read(self, fn: Callable[[SqliteTx], T]) -> T:
        db = self._idle_readers.get()
        try:
            db.conn.execute("BEGIN")
            try:
                return _result(fn, SqliteTx(db, self._now(), location=self._location))
            finally:
                if db.conn.in_transaction:  # an I/O error may have ended it
                    db.conn.execute("COMMIT")
        except sqlite3.Error as error:
            raise errors.unavailable(error) from error
        finally:
            self._idle_readers.put(db)

    def _write_forever(self) -> None:
        while (unit := self._queue.get()) is not None:
            batch = [unit]
            stop = False
            while len(batch) < _BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    stop = True
                    break
                batch.append(following)
            self._commit(batch)
            _publish_on_loops(batch, self._publish)
            if stop:
                return

    def _commit(self, batch: list[_Unit]) -> None:
        """Run all units in one transaction. Units that fail on a full disk are retried after freeing the ballast."""
        self._retake_ballast()
        self._attempt(batch)
        failed = [unit for unit in batch if unit.hit_full_disk]
        if failed and self._ballast is not None and self._ballast.give_up():
            self._retake_ballast_at = self._now() + _BALLAST_RETRY
            for unit in failed:
                unit.error = None
            self._attempt(failed)

    def _retake_ballast(self) -> None:
        if self._ballast is not None and not self._ballast.held and self._now() >= self._retake_ballast_at:
            self._retake_ballast_at = self._now() + _BALLAST_RETRY
            self._ballast.hold()

    def _attempt(self, batch: list[_Unit]) -> None:
        """Run the units in one transaction. If the transaction itself fails, all units fail."""
        connection = self._writer.conn
        try:
            connection.execute("BEGIN IMMEDIATE")
            for unit in batch:
                self._run(unit)
            connection.execute("COMMIT")
        except (sqlite3.Error, Unavailable) as error:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # if this fails, the next BEGIN fails and retries it
                    connection.execute("ROLLBACK")
            cause = error if isinstance(error, sqlite3.Error) else error.__cause__
            for unit in batch:
                unit.error = errors.unavailable(cause)

    def _run(self, unit: _Unit) -> None:
        connection = self._writer.conn
        now = self._now()
        has_space = self._ballast is None or self._ballast.held
        tx = SqliteTx(self._writer, now, location=self._location, has_space=has_space)
        connection.execute("SAVEPOINT unit")
        try:
            unit.result = _result(unit.fn, tx)
            unit.topics, unit.callbacks = tuple(tx.topics), tuple(tx.callbacks)
        except Exception as error:  # noqa: BLE001 - it is passed unchanged to the unit's caller
            unit.error = error
        if not connection.in_transaction:  # a full disk or an I/O error has ended it, for every unit
            raise errors.unavailable(tx.failure and tx.failure.__cause__)
        if unit.error is not None:
            connection.execute("ROLLBACK TO unit")
        connection.execute("RELEASE unit")

    def _publish(self, batch: list[_Unit]) -> None:
        for unit in batch:
            if not unit.done.done():  # the caller may have been cancelled; its unit is committed anyway
                if unit.error is not None:
                    unit.done.set_exception(unit.error)
                else:
                    unit.done.set_result(unit.result)
            if unit.error is None:
                for topic in unit.topics:
                    for wakeups in self._watchers.get(topic, ()):
                        wakeups.event.set()
                for call in unit.callbacks:
                    unit.context.run(_call_safely, call)


def _call_safely(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("commit_callback_failed")  # the commit is done, and other callers wait for their answers


def _publish_on_loops(batch: list[_Unit], publish: Callable[[list[_Unit]], None]) -> None:
    loops = {id(unit.loop): unit.loop for unit in batch}
    for loop in loops.values():
        if not loop.is_closed():
            loop.call_soon_threadsafe(publish, [unit for unit in batch if unit.loop is loop])


def _open(path: str, location: DatabaseLocation | None, resources: ExitStack, *, alone: bool) -> SqliteUtils:
    """The writer's connection. An empty database is set up. `resources` gets everything that must be closed."""
    if location is None:
        db = resources.enter_context(closing(_connect(path)))
        set_up_in_memory(db.conn)
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
    return db


def _open_readers(path: str, resources: ExitStack, number: int) -> "queue.SimpleQueue[SqliteUtils]":
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
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
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
