"""Units of work as every store runs them: what a transaction records, units that wait, and watchers.

A store has one writer, which takes the waiting units in batches, and commits a batch at once. `publish` then answers
the callers, wakes the watchers and runs the callbacks, on the event loop of each caller.
"""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import structlog

from gpuproxy.model.errors import StatementRefused, Unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")

BATCH = 64
"""The most units of one commit."""


class UnitTx:
    """The part of the Tx port that is the same in every store. `_run` executes a statement."""

    def __init__(self, now: datetime | None = None) -> None:
        """`now`: the time of the unit; None: it is asked when it is needed."""
        self._now = now
        self.topics: list[str] = []
        self.callbacks: list[Callable[[], None]] = []
        self.failure: Exception | None = None
        """The error of the first statement that failed. No further statement is executed."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of changed rows."""
        return self._run(sql, params)[0]

    def write(self, sql: str, params: Sequence[Any] = (), *, otherwise: Exception | None = None) -> None:
        """Run a statement whose result nobody needs. If it changes no row, the unit fails with `otherwise`."""
        if self.execute(sql, params) == 0 and otherwise is not None:
            self.failure = otherwise
            raise otherwise

    def ahead(self, sql: str, params: Sequence[Any] = ()) -> None:
        """A query that will be made. Nothing is read before: here a query costs no way to another machine."""

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """Run a query; returns all rows."""
        return self._run(sql, params, rows=True)[1]

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """Run a query; returns the first row, or None if there is none."""
        rows = self.fetch(sql, params)
        return rows[0] if rows else None

    def now(self) -> datetime:
        """The time of this unit of work, in aware UTC and whole microseconds."""
        if self._now is None:
            self._now = self._time()
        return self._now

    def changed(self, topic: str) -> None:
        """Wake the watchers of `topic` after this unit is committed."""
        self.topics.append(topic)

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call `call` on the event loop after this unit is committed, once. It isn't called if the unit fails."""
        self.callbacks.append(call)

    def lasting(self) -> bool:
        """False if writes would be lost."""
        return True

    def before_spending(self) -> None:
        """Raise Unavailable if nothing may be rented."""

    def _time(self) -> datetime:
        """The time of the unit, if it was not given."""
        raise NotImplementedError

    def finish(self) -> None:
        """Called once the unit's function has returned. Raises the errors of what was written last."""

    def _run(self, sql: str, params: Sequence[Any], *, rows: bool = False) -> tuple[int, list[Mapping[str, Any]]]:
        """The number of changed rows and, if wanted, the rows. Raises the errors of the port."""
        raise NotImplementedError

    def _require_whole(self) -> None:
        """Raise StatementRefused after a failed statement: the database may have ended the transaction."""
        if self.failure is not None:
            raise StatementRefused("an earlier statement of this unit has failed") from self.failure


def result_of(fn: Callable[[Any], T], tx: UnitTx) -> T:
    """The result of a unit; raises the error of a statement even if the unit has passed over it."""
    result = fn(tx)
    if tx.failure is None:
        tx.finish()
    if tx.failure is not None:
        raise tx.failure
    return result


@dataclass(slots=True)
class Unit:
    """One unit of work that waits to be written."""

    fn: Callable[[Any], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    topics: tuple[str, ...] = ()
    callbacks: tuple[Callable[[], None], ...] = ()
    context: Context = field(default_factory=copy_context)

    @classmethod
    def of(cls, fn: Callable[[Any], Any]) -> "Unit":
        """A unit of the caller on the running loop."""
        loop = asyncio.get_running_loop()
        return cls(fn, loop, loop.create_future())

    def run(self, tx: UnitTx) -> None:
        """Run the function in its caller's context, in whichever thread, and keep its result or its error."""
        self.error = None
        try:
            self.result = self.context.run(result_of, self.fn, tx)
            self.topics, self.callbacks = tuple(tx.topics), tuple(tx.callbacks)
        except Exception as error:  # noqa: BLE001 - it is passed unchanged to the unit's caller
            self.error = error


def write_forever(waiting: "queue.SimpleQueue[Unit | None]", commit: Callable[[list[Unit]], None]) -> None:
    """Pass the waiting units to `commit` in batches, until a None."""
    while (unit := waiting.get()) is not None:
        batch = [unit]
        stop = False
        while len(batch) < BATCH and not waiting.empty():
            following = waiting.get()
            if following is None:
                stop = True
                break
            batch.append(following)
        commit(batch)
        if stop:
            return


class Wakeups:
    """The wakeups of one watcher."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next change; returns at once if there was one since the last call."""
        await self.event.wait()
        self.event.clear()


class Watchers:
    """The watchers of this process, by topic. Everything is called on their event loop."""

    def __init__(self) -> None:
        self._of: dict[str, list[Wakeups]] = {}

    @asynccontextmanager
    async def watch(self, topic: str) -> AsyncIterator[Wakeups]:
        """Subscribe to the changes of a topic, from now on."""
        wakeups = Wakeups()
        self._of.setdefault(topic, []).append(wakeups)
        try:
            yield wakeups
        finally:
            self._of[topic].remove(wakeups)
            if not self._of[topic]:
                del self._of[topic]

    def wake(self, topics: Sequence[str]) -> None:
        """Wake the watchers of these topics."""
        for topic in topics:
            for wakeups in self._of.get(topic, ()):
                wakeups.event.set()

    def wake_all(self) -> None:
        """Wake every watcher: something may have changed."""
        self.wake(tuple(self._of))

    def publish(self, batch: Sequence[Unit]) -> None:
        """Answer the callers of a committed batch, wake the watchers, and run the callbacks."""
        for unit in batch:
            if not unit.done.done():  # the caller may have been cancelled; its unit is committed anyway
                if unit.error is not None:
                    unit.done.set_exception(unit.error)
                else:
                    unit.done.set_result(unit.result)
            if unit.error is None or isinstance(unit.error, Unavailable):  # then it may be committed nevertheless
                self.wake(unit.topics)
            if unit.error is None:
                for call in unit.callbacks:
                    unit.context.run(_call_safely, call)

    def publish_on_loops(self, batch: Sequence[Unit]) -> None:
        """The same from the writer's thread."""
        loops = {id(unit.loop): unit.loop for unit in batch}
        for loop in loops.values():
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.publish, [unit for unit in batch if unit.loop is loop])


def _call_safely(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("commit_callback_failed")  # the commit is done, and other callers wait for their answers
