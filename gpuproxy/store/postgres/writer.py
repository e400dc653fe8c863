"""The one writer of a process: it runs batches of units, and finds out what became of a commit without an answer."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import TypeVar

import psycopg
import structlog
from psycopg.pq import TransactionStatus

from gpuproxy.model.errors import DiskFull, Unavailable
from gpuproxy.store.postgres import commits, errors
from gpuproxy.store.postgres.commits import Record, Unproven
from gpuproxy.store.postgres.connecting import Connection, UnusableServer
from gpuproxy.store.postgres.errors import Unique
from gpuproxy.store.postgres.transactions import PostgresTx
from gpuproxy.store.units import Unit, result_of

log = structlog.get_logger(__name__)
T = TypeVar("T")

_TRIES = 4
_SWEEP_EVERY = timedelta(seconds=60)
_NO_SPACE_FOR = timedelta(seconds=10)
LOOK_UP_FOR = 45.0
"""Seconds in which it must be found out whether a batch was committed: longer than a failover usually takes."""
_PAUSE = 0.2
_WITHIN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class _RunAgain(Exception):
    """Nothing of the batch was committed, and it may be run again. The reason is the cause."""

    def __init__(self, *, singly: bool = False) -> None:
        """`singly`: nothing of one unit is sent with another one's, or the COMMIT, to learn which one has failed."""
        super().__init__()
        self.singly = singly


class Writer:
    """It is used by one thread at a time."""

    def __init__(
        self, name: str, connect: Callable[[], Connection], unique: Unique, connection: Connection | None = None
    ) -> None:
        """`name` is this process's own, never used before. `connect` makes a checked connection, as `connection` is."""
        self.name = name
        self.clock: Callable[[], datetime] | None = None
        """The time of units instead of the database's time."""
        self.scaled: Callable[[datetime], datetime] = lambda now: now
        """The deployment's time at a time of the database."""
        self._connect = connect
        self._unique = unique
        self._connection = connection
        self._batch = 0
        self._sweep_at: datetime | None = None
        self._no_space_until: datetime | None = None

    def commit(self, batch: Sequence[Unit]) -> None:
        """Run all units in one transaction; each then has its result or its error."""
        problem: BaseException | None = None
        singly = False
        for _ in range(_TRIES):
            try:
                self._attempt(batch, singly=singly)
            except _RunAgain as again:
                problem, singly = again.__cause__, singly or again.singly
                continue
            except (psycopg.Error, UnusableServer) as error:
                self._fail(batch, errors.unavailable(error))
            except Unavailable as error:
                self._fail(batch, error)
            return
        self._fail(batch, errors.unavailable(problem))

    def read(self, fn: Callable[[PostgresTx], T]) -> T:
        """Run a reading unit on the writer's connection, for a database without threads. Raises as `reading`."""
        return self.reading(self._connected(), fn)

    def reading(self, connection: Connection, fn: Callable[[PostgresTx], T]) -> T:
        """Run a reading unit on a snapshot. Raises what the unit raises, and psycopg.Error."""
        tx = self._tx(connection, [commits.BEGIN_READING.encode()])
        try:
            return result_of(fn, tx)
        except Unavailable as error:
            if connection.closed and isinstance(error.__cause__, psycopg.Error):
                raise error.__cause__ from None
            raise
        finally:
            if connection.pgconn.transaction_status in _WITHIN:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fail(self, batch: Sequence[Unit], error: Unavailable) -> None:
        for unit in batch:
            unit.error = error

    def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    def _tx(self, connection: Connection, begin: Sequence[bytes], *, whole: bool = True) -> PostgresTx:
        return PostgresTx(
            connection, self._unique, begin, clock=self.clock, scaled=self.scaled,
            no_space_until=self._no_space_until, whole=whole,
        )  # fmt: skip

    def _attempt(self, batch: Sequence[Unit], *, singly: bool) -> None:
        connection = self._connected()
        try:
            now, left = self._run(connection, batch, singly=singly)
        except psycopg.Error as error:
            self._undo(connection)
            if connection.closed or errors.is_transient(error):
                raise _RunAgain from error
            raise
        except _RunAgain:
            self._undo(connection)
            raise
        except BaseException:
            self.close()
            raise
        if now is None or all(unit.error is not None for unit in batch):
            self._undo(connection)
            self._note_full_disk(connection, batch)
            return
        self._batch += 1
        sweep = self._sweep_at is None or now >= self._sweep_at
        topics = [topic for unit in batch if unit.error is None for topic in unit.topics]
        try:
            commits.commit(connection, Record(self.name, self._batch, now, topics, sweep=sweep), after=left)
        except (psycopg.Error, Unproven) as error:
            self._conclude(connection, error, singly=singly)
        if sweep:
            self._sweep_at = now + _SWEEP_EVERY
        self._note_full_disk(connection, batch)

    def _note_full_disk(self, connection: Connection, batch: Sequence[Unit]) -> None:
        """Spend nothing for a while after a write failed because the disk is full."""
        if any(isinstance(unit.error, DiskFull) and unit.error.__cause__ is not None for unit in batch):
            with suppress(psycopg.Error):
                tx = self._tx(connection, ())
                tx.start()
                self._no_space_until = tx.at and tx.at + _NO_SPACE_FOR

    def _run(
        self, connection: Connection, batch: Sequence[Unit], *, singly: bool
    ) -> tuple[datetime | None, list[bytes]]:
        """Run the units; if there are several, each in its savepoint. Raises psycopg.Error for all of them.

        Returns the time of the last one, None if none has come so far as to learn it, and the statements that are
        still to be sent with the COMMIT.
        """
        left, now, several = [commits.BEGIN.encode()], None, len(batch) > 1
        for unit in batch:
            tx = self._tx(connection, [*left, b"SAVEPOINT unit"] if several else left, whole=singly)
            if singly:
                tx.start()
            unit.run(tx)
            if unit.error is None and tx.at is None:
                self._start(connection, tx)
            now = tx.at or now
            self._judge(connection, tx, alone=not several)
            if unit.error is None:
                left = [*tx.unsent(), *([b"RELEASE unit"] if several else [])]
            elif tx.begun:
                left = [b"ROLLBACK TO unit", b"RELEASE unit"]
        return now, left

    def _start(self, connection: Connection, tx: PostgresTx) -> None:
        """Learn the time of a unit that has not asked for it, and has written something at most."""
        try:
            tx.start()
        except Exception as error:
            if isinstance(error, psycopg.Error) and (connection.closed or errors.is_transient(error)):
                raise
            raise _RunAgain(singly=True) from error

    def _judge(self, connection: Connection, tx: PostgresTx, *, alone: bool) -> None:
        """Raise psycopg.Error or _RunAgain if the failure of a unit is, or may be, one of the whole batch."""
        cause = tx.failure and tx.failure.__cause__
        if not isinstance(cause, psycopg.Error):
            return
        if connection.closed or errors.is_transient(cause):
            raise cause
        if not tx.begun and not alone:  # what was sent with the unit's first statement may have failed
            raise _RunAgain(singly=True) from cause

    def _undo(self, connection: Connection) -> None:
        if connection.pgconn.transaction_status in _WITHIN:
            with suppress(psycopg.Error):
                connection.execute("ROLLBACK")
                return
            connection.close()

    def _conclude(self, connection: Connection, error: psycopg.Error | Unproven, *, singly: bool) -> None:
        """Find out what became of a commit. Raises _RunAgain if it was not done, and Unavailable if nobody knows."""
        if isinstance(error, psycopg.Error) and not connection.closed:  # the server has refused it
            self._undo(connection)
            if errors.is_transient(error):
                raise _RunAgain from error
            if not singly:
                raise _RunAgain(singly=True) from error
            raise error
        self.close()
        log.warning("commit_ambiguous", error=type(error).__name__, batch=self._batch)
        until = monotonic() + LOOK_UP_FOR
        while True:
            with suppress(psycopg.Error, UnusableServer, Unproven):
                found = commits.was_committed(self._connected(), self.name, self._batch)
                break
            self.close()
            if monotonic() > until:
                found = None
                break
            sleep(_PAUSE)
        log.info("commit_looked_up", batch=self._batch, committed=found)
        if found is None:
            raise errors.ambiguous(error)
        if not found:
            raise _RunAgain from error
