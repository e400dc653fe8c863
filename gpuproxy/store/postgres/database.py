"""The Database port over PostgreSQL: any number of equal servers, each with one writer thread (group commit).

**Isolation.** Units that write are serialised over all servers: a transaction at READ COMMITTED takes one lock of the
database as its first statement, and the lock ends with the transaction. So each later statement has everything that was
committed before, limits are never read on an old snapshot, and the order of events is the order of commits. A commit
has up to 64 units of a server, each in its own savepoint. SERIALIZABLE would need to repeat most units under load,
because they touch the same few rows: the sums, the limits, the newest event.
Units that read get a snapshot (REPEATABLE READ, READ ONLY) on the same server: a standby may lack what was answered.

**Repetition.** A batch that lost a conflict, or whose connection broke before its COMMIT was sent, is run again. If the
connection broke during COMMIT, the outcome is looked up (`commits.was_committed`): a committed batch is a success, and
another one is run again. If nobody knows within 45 seconds, the units fail with Unavailable.

**No session state.** All settings are of a transaction, and nothing is prepared, so PgBouncer in transaction mode may
stand between. Only the connection for notifications has a state, and it is not needed: see `listening`.

**Time** is that of the database, and never before that of a committed unit.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from gpuproxy.store.postgres import commits, errors, migrations
from gpuproxy.store.postgres.connecting import (
    Connection,
    LimitedConnection,
    UnusableServer,
    connect,
    conninfo,
    prepared,
    require_sound,
    unique_keys,
)
from gpuproxy.store.postgres.listening import POLL, Listener, last_change
from gpuproxy.store.postgres.transactions import PostgresTx
from gpuproxy.store.postgres.writer import Writer
from gpuproxy.store.units import Unit, Wakeups, Watchers, write_forever

T = TypeVar("T")

_READERS = 4
_WAIT_FOR_READER = 10.0
_RECONNECTS_FOR = 3.0
"""So long the pool tries to replace a broken connection. After that the next reader makes a new one: the pool itself
would wait up to two minutes between attempts, also when the database is back."""


class PostgresDatabase:
    """The Database port. For simulations, `threads` is False: then everything runs on the caller's thread."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        listen_url: str = "",
        serves: bool = True,
        migrate: bool = True,
        unsafe: bool = False,
        threads: bool = True,
        poll: float = POLL,
    ) -> None:
        """Open the database; create or migrate it if necessary.

        `name` is this process's own among all servers, and never used again. `listen_url` leads to the same database
        without a pooler. `serves`: hear what other servers change, and count as a server. With `migrate=False`, the
        schema must be that of this version. `unsafe`: accept a server that can lose commits. `poll`: seconds after
        which changes of other servers are read without a notification.
        Raises UnusableServer, and Unavailable if the server can't be reached.
        """
        self._url = url
        self._unsafe = unsafe
        self._watchers = Watchers()
        self._loops: set[asyncio.AbstractEventLoop] = set()
        self._queue: queue.SimpleQueue[Unit | None] = queue.SimpleQueue()
        try:
            connection = self._connect()
            with ExitStack() as unless_opened:
                unless_opened.callback(connection.close)
                (migrations.apply if migrate else migrations.require_current)(connection)
                seen = last_change(connection)
                self._writer = Writer(name, self._connect, unique_keys(connection), connection)
                unless_opened.pop_all()
        except psycopg.Error as error:
            raise errors.unavailable(error) from error
        self._threads: ExitStack | None = None
        if threads:
            listen = lambda: self._checked(connect(listen_url or url))  # noqa: E731 - each connection is a new one
            self._threads = self._start(Listener(listen, name, self._hear, seen=seen, poll=poll) if serves else None)

    def _start(self, listener: Listener | None) -> ExitStack:
        """Start the threads; the stack ends them."""
        with ExitStack() as stack:
            if listener is not None:
                listener.start()
                stack.callback(listener.join)
            self._pool: ConnectionPool[Connection] = ConnectionPool(
                conninfo(self._url), connection_class=LimitedConnection,
                kwargs={"autocommit": True, "row_factory": dict_row}, configure=self._configure,
                min_size=1, max_size=_READERS, timeout=_WAIT_FOR_READER, open=True, name="gpuproxy-readers",
                reconnect_timeout=_RECONNECTS_FOR,
            )  # fmt: skip
            stack.callback(self._pool.close)
            self._readers = ThreadPoolExecutor(_READERS, "gpuproxy-reader")
            stack.callback(self._readers.shutdown)
            writing = threading.Thread(target=self._write_forever, name="gpuproxy-writer", daemon=True)
            writing.start()
            stack.callback(writing.join)
            if listener is not None:
                stack.callback(listener.end)
            return stack.pop_all()

    @property
    def exclusive(self) -> bool:
        """False: other servers can use the database."""
        return False

    async def others(self) -> bool:
        """True if another server uses the database, or has crashed less than 20 seconds ago."""
        return await self.read(partial(commits.others_alive, writer=self._writer.name))

    def use_clock(self, now: Callable[[], datetime]) -> None:
        """Use `now` as the time of units instead of the database's time. For tests and simulations."""
        self._writer.clock = now

    def use_scale(self, scaled: Callable[[datetime], datetime]) -> None:
        """Use a function of the database's time as the time of units. It must be the same for all servers."""
        self._writer.scaled = scaled

    async def write(self, fn: Callable[[PostgresTx], T]) -> T:
        """Run `fn` in a transaction. When this returns, the changes are on the server's disk."""
        unit = Unit.of(fn)
        if self._threads is None:
            self._writer.commit([unit])
            self._watchers.publish([unit])
        else:
            self._queue.put(unit)
        return cast("T", await unit.done)

    async def read(self, fn: Callable[[PostgresTx], T]) -> T:
        """Run `fn` on a consistent snapshot, which has all units that were answered before."""
        if self._threads is None:
            return self._again(partial(self._writer.read, fn), self._writer.close)
        read = partial(self._again, partial(self._read, fn), self._pool.drain)
        return await asyncio.get_running_loop().run_in_executor(self._readers, read)

    @asynccontextmanager
    async def watch(self, topic: str) -> AsyncIterator[Wakeups]:
        """Subscribe to the changes of a topic, from now on, by this server and others."""
        self._loops.add(asyncio.get_running_loop())
        async with self._watchers.watch(topic) as wakeups:
            yield wakeups

    async def close(self) -> None:
        """Finish the queued writes and close all connections."""
        self._queue.put(None)
        if self._threads is not None:
            await asyncio.to_thread(self._threads.close)
        self._writer.close()

    def _connect(self) -> Connection:
        return self._checked(connect(self._url))

    def _checked(self, connection: Connection) -> Connection:
        try:
            require_sound(connection, unsafe=self._unsafe)
        except BaseException:
            connection.close()
            raise
        return connection

    def _configure(self, connection: Connection) -> None:
        require_sound(prepared(connection), unsafe=self._unsafe)

    def _read(self, fn: Callable[[PostgresTx], T]) -> T:
        with self._pool.connection() as connection:
            return self._writer.reading(connection, fn)

    def _again(self, read: Callable[[], T], renew: Callable[[], Any]) -> T:
        """The result of a reading unit, which is run once more if its connection was broken."""
        for retry in (True, False):
            try:
                return read()
            except (psycopg.Error, PoolTimeout, UnusableServer) as error:
                if not retry or isinstance(error, (PoolTimeout, UnusableServer)):
                    raise errors.unavailable(error) from error
                renew()
        raise AssertionError

    def _write_forever(self) -> None:
        def commit(batch: list[Unit]) -> None:
            self._writer.commit(batch)
            self._watchers.publish_on_loops(batch)

        write_forever(self._queue, commit)

    def _hear(self, topics: Sequence[str] | None) -> None:
        """Wake the watchers of topics that another server has changed; None: all."""
        for loop in tuple(self._loops):
            if loop.is_closed():
                self._loops.discard(loop)
            else:
                loop.call_soon_threadsafe(
                    *((self._watchers.wake_all,) if topics is None else (self._watchers.wake, topics))
                )
