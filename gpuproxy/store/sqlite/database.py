"""The Database port over SQLite: one writer thread with group commit, a few reader threads, one process.

Units of work that arrive while a commit is under way share the next one: each runs in a savepoint of its own, so a
unit that fails takes nothing else with it, and nobody is answered before the common commit is on disk
(WAL, synchronous=FULL). A lock on the database file keeps a second process out: who finds unfinished work in it may
therefore take the work over.
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

from gpuproxy.model.errors import Unavailable
from gpuproxy.store.migrations import migrations
from gpuproxy.store.sqlite.ballast import Ballast
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.store.sqlite.place import Place, WrongPlace

log = structlog.get_logger(__name__)
T = TypeVar("T")

_BATCH = 64
_READERS = 2
_LOOK_FOR_ROOM = timedelta(seconds=10)


@dataclass(slots=True)
class _Unit:
    """One write waiting for its turn."""

    fn: Callable[["SqliteTx"], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    topics: tuple[str, ...] = ()
    afterwards: tuple[Callable[[], None], ...] = ()
    context: Context = field(default_factory=copy_context)

    @property
    def lacked_room(self) -> bool:
        """True when it failed, and would not have on a disk with room."""
        return self.error is not None and _is_full(self.error.__cause__)


class SqliteTx:
    """The Tx port over one connection."""

    def __init__(self, db: SqliteUtils, now: datetime, *, place: Place | None, roomy: bool = True) -> None:
        self._db = db
        self._now = now
        self._place = place
        self._roomy = roomy
        self.topics: list[str] = []
        self.afterwards: list[Callable[[], None]] = []

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows that changed."""
        return int(self._db.execute(sql, params).rowcount)

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """All rows."""
        cursor = self._db.execute(sql, params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """The first row, or None."""
        rows = self.fetch(sql, params)
        return rows[0] if rows else None

    def now(self) -> datetime:
        """The time that this unit is judged by, cut to the microsecond that the books keep."""
        return self._now

    def changed(self, topic: str) -> None:
        """Wake the watchers of `topic` once this unit is committed."""
        self.topics.append(topic)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call it on the loop once this unit is committed; never for one that failed or ran again."""
        self.afterwards.append(call)

    def lasting(self) -> bool:
        """False while the path of the database does not name the files that are written."""
        return self._place is None or self._place.names_opened()

    def before_spending(self) -> None:
        """Raises Unavailable while the last room on the disk is for giving back, or what is written does not last."""
        if not self._roomy:
            raise _no_room()
        if not self.lasting():
            raise _not_lasting()


class _Wakeups:
    """One watcher's wakeups."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        """Return at the next change, or at once when one came since the last call."""
        await self.event.wait()
        self.event.clear()


class SqliteDatabase:
    """The Database port. `path` may be ":memory:" with `threads=False`, for simulation."""

    def __init__(
        self,
        path: str,
        now: Callable[[], datetime],
        *,
        threads: bool = True,
        alone: bool = True,
        ballast: Ballast | None = None,
    ) -> None:
        """Raises DatabaseLocked when another process serves from it, WrongPlace where no books of ours can be.

        With `alone=False` it may be shared: for a command that touches a few rows and takes nothing over.
        """
        self._now = now
        self._ballast = ballast
        self._look_for_room_at = datetime.min.replace(tzinfo=UTC)
        with ExitStack() as held:
            # The place is entered first, so that it is closed last: see locks.Handle.
            self._place = None if path == ":memory:" else held.enter_context(closing(Place(Path(path))))
            path = str(self._place.path) if self._place else path
            self._writer = _open(path, self._place, held, alone=alone)
            self._idle = _readers(path, held, _READERS if threads else 0)
            if self._place is not None:
                self._place.note_opened()
            self._held = held.pop_all()
        self._watchers: dict[str, set[_Wakeups]] = {}
        self._queue: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers: ThreadPoolExecutor | None = None
        if threads:
            self._thread = threading.Thread(target=self._write_forever, name="gpuproxy-writer", daemon=True)
            self._thread.start()
            self._readers = ThreadPoolExecutor(_READERS, "gpuproxy-reader")

    def judge_by(self, now: Callable[[], datetime]) -> None:
        """From here on `now` is the time of the books."""
        self._now = now

    async def write(self, fn: Callable[[SqliteTx], T]) -> T:
        """Run `fn` in a transaction; when this returns, it survives a crash."""
        loop = asyncio.get_running_loop()
        unit = _Unit(fn, loop, loop.create_future())
        if self._thread is None:
            self._commit([unit])
            self._publish([unit])
        else:
            self._queue.put(unit)
        return cast("T", await unit.done)

    async def read(self, fn: Callable[[SqliteTx], T]) -> T:
        """Run `fn` on a consistent snapshot."""
        if self._readers is None:
            return fn(SqliteTx(self._writer, self._now(), place=self._place))
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, fn)

    @asynccontextmanager
    async def watch(self, topic: str) -> AsyncIterator[_Wakeups]:
        """Wakeups for a topic, from now on."""
        wakeups = _Wakeups()
        self._watchers.setdefault(topic, set()).add(wakeups)
        try:
            yield wakeups
        finally:
            self._watchers[topic].discard(wakeups)
            if not self._watchers[topic]:
                del self._watchers[topic]

    async def close(self) -> None:
        """Flush and close."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        if self._readers is not None:
            self._readers.shutdown()
        self._held.close()

    def _read(self, fn: Callable[[SqliteTx], T]) -> T:
        db = self._idle.get()
        try:
            db.conn.execute("BEGIN")
            try:
                return fn(SqliteTx(db, self._now(), place=self._place))
            finally:
                db.conn.execute("COMMIT")
        finally:
            self._idle.put(db)

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
            _by_loop(batch, self._publish)
            if stop:
                return

    def _commit(self, batch: list[_Unit]) -> None:
        """Run all units in one transaction; those that find the disk full once more, without the ballast."""
        self._look_for_room()
        self._attempt(batch)
        lacking = [unit for unit in batch if unit.lacked_room]
        if lacking and self._ballast is not None and self._ballast.give_up():
            self._look_for_room_at = self._now() + _LOOK_FOR_ROOM
            for unit in lacking:
                unit.error = None
            self._attempt(lacking)

    def _look_for_room(self) -> None:
        if self._ballast is not None and not self._ballast.held and self._now() >= self._look_for_room_at:
            self._look_for_room_at = self._now() + _LOOK_FOR_ROOM
            self._ballast.hold()

    def _attempt(self, batch: list[_Unit]) -> None:
        """On a failure of the transaction itself nobody's work is kept."""
        connection = self._writer.conn
        try:
            connection.execute("BEGIN IMMEDIATE")
            for unit in batch:
                self._run(unit)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # the next BEGIN fails then, and comes here again
                    connection.execute("ROLLBACK")
            for unit in batch:
                unit.error = _unavailable(error)

    def _run(self, unit: _Unit) -> None:
        connection = self._writer.conn
        now = self._now()
        roomy = self._ballast is None or self._ballast.held
        tx = SqliteTx(self._writer, now, place=self._place, roomy=roomy)
        connection.execute("SAVEPOINT unit")
        try:
            unit.result = unit.fn(tx)
            unit.topics, unit.afterwards = tuple(tx.topics), tuple(tx.afterwards)
        except sqlite3.Error as error:
            if not connection.in_transaction:  # disk full and I/O errors end the whole transaction
                raise
            unit.error = error if isinstance(error, sqlite3.IntegrityError) else _unavailable(error)
        except Exception as error:  # noqa: BLE001 - it goes to the caller that owns the unit, unchanged
            unit.error = error
        if unit.error is not None:
            connection.execute("ROLLBACK TO unit")
        connection.execute("RELEASE unit")

    def _publish(self, batch: list[_Unit]) -> None:
        for unit in batch:
            if not unit.done.done():  # a cancelled caller's unit is committed all the same
                if unit.error is not None:
                    unit.done.set_exception(unit.error)
                else:
                    unit.done.set_result(unit.result)
            if unit.error is None:
                for topic in unit.topics:
                    for wakeups in self._watchers.get(topic, ()):
                        wakeups.event.set()
                for call in unit.afterwards:
                    unit.context.run(_surely, call)


def _surely(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("commit_callback_failed")  # what was written stays written, and others wait for their answers


def _by_loop(batch: list[_Unit], publish: Callable[[list[_Unit]], None]) -> None:
    loops = {id(unit.loop): unit.loop for unit in batch}
    for loop in loops.values():
        if not loop.is_closed():
            loop.call_soon_threadsafe(publish, [unit for unit in batch if unit.loop is loop])


def _open(path: str, place: Place | None, held: ExitStack, *, alone: bool) -> SqliteUtils:
    """A connection to the books, which are made where there is nothing yet; `held` is told what to close."""
    if place is None:
        db = held.enter_context(closing(_connected(path)))
        db.execute("PRAGMA foreign_keys=ON")
        migrations.apply(db)
        return db
    place.open()
    found = None if place.is_empty else held.enter_context(closing(_found(path, place)))
    place.lock(required=alone)
    if alone:
        place.make_private()
    db = found or held.enter_context(closing(_connected(path)))
    _set_up(db)
    if place.locked:
        migrations.apply(db)
    return db


def _readers(path: str, held: ExitStack, number: int) -> "queue.SimpleQueue[SqliteUtils]":
    """A connection for each reader, at once: later the path may name another file."""
    idle: queue.SimpleQueue[SqliteUtils] = queue.SimpleQueue()
    for _ in range(number):
        db = held.enter_context(closing(_connected(path)))
        _set_up(db)
        db.execute("PRAGMA query_only=ON")
        idle.put(db)
    return idle


def _connected(path: str) -> SqliteUtils:
    """Changes nothing yet."""
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    connection.isolation_level = None
    return SqliteUtils(connection, execute_plugins=False, strict=True)


def _found(path: str, place: Place) -> SqliteUtils:
    """Books that are there."""
    with ExitStack() as held:
        db = held.enter_context(closing(_connected(path)))
        _require_ours(db)
        if not place.free():
            held.pop_all()
            return db
    return _connected(path)


def _require_ours(db: SqliteUtils) -> None:
    """Raises WrongPlace for another program's database, sqlite3.DatabaseError for what is none."""
    if set(db.table_names()) - {migrations.migrations_table} and not migrations.applied(db):
        raise WrongPlace("it is the database of another program")


def _set_up(db: SqliteUtils) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA foreign_keys=ON")


def _unavailable(error: sqlite3.Error) -> Unavailable:
    if _is_full(error):
        failure = _no_room()
    else:
        text = "The books can't be written at the moment; nothing was changed. Repeat the call later."
        failure = Unavailable(text, reason="DATABASE")
    failure.__cause__ = error
    return failure


def _no_room() -> Unavailable:
    text = "The books can't be written because the server's disk is full; nothing was changed. Repeat the call later."
    return Unavailable(text, reason="DATABASE")


def _not_lasting() -> Unavailable:
    text = (
        "The server's database was removed or replaced while it runs; nothing was changed. Nothing is rented or "
        "started until its files are put back; giving back goes on."
    )
    return Unavailable(text, reason="DATABASE")


def _is_full(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
