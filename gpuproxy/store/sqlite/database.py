"""The Database port over SQLite: one process with one writer thread (group commit) and a few reader threads.

Units of work that arrive during a commit share the next one. Each unit runs in its own savepoint, so that a failed
unit doesn't affect others. A caller is answered after the common commit is on disk (WAL, synchronous=FULL). A lock on
the database file keeps other servers out; therefore a server may take over unfinished work that it finds in it.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlite_utils import Database as SqliteUtils

from gpuproxy.model.errors import DiskFull, Unavailable
from gpuproxy.store.sqlite import errors
from gpuproxy.store.sqlite.ballast import Ballast
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.store.sqlite.location import DatabaseLocation, UnusableLocation
from gpuproxy.store.sqlite.opening import open_readers, open_writer
from gpuproxy.store.units import Unit, UnitTx, Wakeups, Watchers, result_of, write_forever

T = TypeVar("T")

_READERS = 2
_SERVER_WAITS = timedelta(seconds=5)
_COMMAND_WAITS = timedelta(minutes=1)
"""So long a commit waits for other processes. A server's caller repeats the call, the user of a command does not."""
_BALLAST_RETRY = timedelta(seconds=10)


class SqliteTx(UnitTx):
    """The Tx port: one transaction on one connection."""

    def __init__(
        self, db: SqliteUtils, now: datetime, *, location: DatabaseLocation | None, has_space: bool = True
    ) -> None:
        super().__init__(now)
        self._db = db
        self._location = location
        self._has_space = has_space

    def _run(self, sql: str, params: Sequence[Any], *, rows: bool = False) -> tuple[int, list[Mapping[str, Any]]]:
        self._require_whole()  # SQLite may have ended the transaction, and would commit each further statement
        try:
            cursor = self._db.execute(sql, params)
            return int(cursor.rowcount), _rows(cursor) if rows else []
        except sqlite3.Error as error:
            self.failure = errors.of_statement(error)
            raise self.failure from error

    def lasting(self) -> bool:
        """False while the database's path names other files than the open ones: what is written would be lost."""
        return self._location is None or self._location.files_unchanged()

    def before_spending(self) -> None:
        """Raise Unavailable if nothing may be rented: the disk is full, or the database files were replaced."""
        if not self._has_space:
            raise errors.disk_full()
        if not self.lasting():
            raise errors.files_changed()


def _rows(cursor: sqlite3.Cursor) -> list[Mapping[str, Any]]:
    if not (found := cursor.fetchall()):  # as most queries of an idle server
        return []
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in found]


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
        self._waits = _SERVER_WAITS if alone else _COMMAND_WAITS
        self._ballast = ballast
        self._retake_ballast_at = datetime.min.replace(tzinfo=UTC)
        with ExitStack() as resources:
            # The location is entered first, so that it is closed last. locks.Handle says why.
            self._location = (
                None if path == ":memory:" else resources.enter_context(closing(DatabaseLocation(Path(path))))
            )
            path = str(self._location.path) if self._location else path
            try:
                self._writer = open_writer(path, self._location, resources, alone=alone)
                self._idle_readers = open_readers(path, resources, _READERS if threads else 0)
            except sqlite3.Error as error:
                raise UnusableLocation(str(error)) from error
            if self._location is not None:
                self._location.remember_files()
            self._resources = resources.pop_all()
        self._watchers = Watchers()
        self._queue: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
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

    @property
    def connection(self) -> SqliteUtils:
        """The writer's connection, for the one that moves the database while no unit is written."""
        return self._writer

    def use_clock(self, now: Callable[[], datetime]) -> None:
        """Use `now` as the time of transactions from now on."""
        self._now = now

    async def write(self, fn: Callable[[SqliteTx], T]) -> T:
        """Run `fn` in a transaction. When this returns, the changes are on disk."""
        unit = Unit.of(fn)
        if self._thread is None:
            self._commit([unit])
            self._watchers.publish([unit])
        else:
            self._queue.put(unit)
        return cast("T", await unit.done)

    async def read(self, fn: Callable[[SqliteTx], T]) -> T:
        """Run `fn` in a read transaction, on a consistent snapshot."""
        if self._reader_pool is None:
            return result_of(fn, SqliteTx(self._writer, self._now(), location=self._location))
        return await asyncio.get_running_loop().run_in_executor(self._reader_pool, self._read, fn)

    def watch(self, topic: str) -> AbstractAsyncContextManager[Wakeups]:
        """Subscribe to the changes of a topic, from now on."""
        return self._watchers.watch(topic)

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
                return result_of(fn, SqliteTx(db, self._now(), location=self._location))
            finally:
                if db.conn.in_transaction:  # an I/O error may have ended it
                    db.conn.execute("COMMIT")
        except sqlite3.Error as error:
            raise errors.unavailable(error) from error
        finally:
            self._idle_readers.put(db)

    def _write_forever(self) -> None:
        def commit(batch: list[Unit]) -> None:
            self._commit(batch)
            self._watchers.publish_on_loops(batch)

        write_forever(self._queue, commit)

    def _commit(self, batch: list[Unit]) -> None:
        """Run all units in one transaction. Units that fail on a full disk are retried after freeing the ballast."""
        self._retake_ballast()
        self._attempt(batch)
        failed = [unit for unit in batch if _hit_full_disk(unit)]
        if failed and self._ballast is not None and self._ballast.give_up():
            self._retake_ballast_at = self._now() + _BALLAST_RETRY
            for unit in failed:
                unit.error = None
            self._attempt(failed)

    def _retake_ballast(self) -> None:
        if self._ballast is not None and not self._ballast.held and self._now() >= self._retake_ballast_at:
            self._retake_ballast_at = self._now() + _BALLAST_RETRY
            self._ballast.hold()

    def _attempt(self, batch: list[Unit]) -> None:
        """Run the units in one transaction. If the transaction itself fails, all units fail."""
        connection = self._writer.conn
        try:
            self._begin(connection)
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

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction that writes. Raises sqlite3.OperationalError if other processes keep the lock too long.

        SQLite alone would wait up to 100 ms between its attempts. A server that commits all the time leaves gaps of
        less than a millisecond, and a command would miss them all.
        """
        until = time.monotonic() + self._waits.total_seconds()
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if time.monotonic() >= until or not errors.is_busy(error):
                    raise
            else:
                return

    def _run(self, unit: Unit) -> None:
        connection = self._writer.conn
        has_space = self._ballast is None or self._ballast.held
        tx = SqliteTx(self._writer, self._now(), location=self._location, has_space=has_space)
        connection.execute("SAVEPOINT unit")
        unit.run(tx)
        if not connection.in_transaction:  # a full disk or an I/O error has ended it, for every unit
            raise errors.unavailable(tx.failure and tx.failure.__cause__)
        if unit.error is not None:
            connection.execute("ROLLBACK TO unit")
        connection.execute("RELEASE unit")


def _hit_full_disk(unit: Unit) -> bool:
    """True if the unit failed because the disk is full."""
    return isinstance(unit.error, DiskFull) and unit.error.__cause__ is not None
