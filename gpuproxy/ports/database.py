"""The database port: durable units of work, and what every store promises about them.

The contract suite in tests/store states each promise as a test. Every store must pass it.

**SQL.** A statement has `?` for each parameter. Parameters and values are None, int (64 bits), float and str. A store
whose database has another syntax translates it.

**Errors.** No exception of a driver crosses the port. A statement raises Taken for a value of a unique key that is in
use, StatementRefused for a bug in the statement or its row, and Unavailable (Busy, ReadOnly, DiskFull) if the database
can't be used now. The driver's exception is the `__cause__`. After the first error of a statement, all further
statements of the unit are refused, and the unit fails even if it passes over the error.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Tx(Protocol):
    """One unit of work inside a transaction. Rows are mappings by column name."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of changed rows. Raises Taken, StatementRefused, Unavailable."""

    def write(self, sql: str, params: Sequence[Any] = (), *, otherwise: Exception | None = None) -> None:
        """Run a statement whose result the unit does not need. A remote database is asked later, with the next query.

        `otherwise` is raised if no row is changed. It and the errors of `execute` are raised by this call or a later
        one, or once the unit has ended. In any case the unit fails, so a unit can't go on after them.
        """

    def ahead(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Say that the unit will `fetch` this query, with the same text and values: a hint, so that one answer has all.

        The rows are those that a query at the time of the `fetch` would find. Sums that triggers keep can't be asked.
        """

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """All rows of a query. Raises StatementRefused, Unavailable."""

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """The first row of a query; None if there is none. Raises StatementRefused, Unavailable."""

    def now(self) -> datetime:
        """The database's time, by which claims and deadlines are judged: aware UTC in whole microseconds.

        It is one value for the whole unit, read when this run of the unit begins, from one clock that all processes of
        the database share. So two processes never disagree on whether a claim or a deadline is over, whatever their own
        clocks say. A database of one process uses that process's clock.
        """

    def changed(self, topic: str) -> None:
        """Wake the watchers of `topic` once this unit is committed."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Run `call` after this unit is committed, on the event loop and in the context of the writer.

        It is not run for a unit that failed or was repeated, nor after a crash between the commit and the call. What it
        raises is logged only.
        """

    def lasting(self) -> bool:
        """False if writes would be lost, because the database's file was removed or replaced."""

    def before_spending(self) -> None:
        """Check that new machines may be paid for. Raises Unavailable while the database may only be used for releases.

        That is the case when the last space on the disk is reserved for releases, or the database is not `lasting`.
        """


class Database(Protocol):
    """Durable units of work.

    A unit is a function of a Tx without outside effects. The database may run it several times, for example after a
    conflict with another process; only the last run counts. Units that write are serialised: each sees all of those
    that were committed before it, and no part of any other.
    """

    @property
    def exclusive(self) -> bool:
        """True if no other process can use the database as a server, so that claims of earlier processes are void."""

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction. When this returns, the writes survive a crash.

        Raises what `fn` raises; then nothing is written. Raises Unavailable if the database can't be written now. Then
        nothing is written either, unless the connection to a remote database broke during the commit. Whoever repeats
        a unit after Unavailable must therefore tolerate that it was written.
        """

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on a consistent snapshot, which has all units that were answered before. Raises Unavailable."""

    def watch(self, topic: str) -> AbstractAsyncContextManager["Wakeups"]:
        """Wakeups for the changes of a topic from now on. What is read after a wakeup has the change."""

    async def close(self) -> None:
        """Finish the units that were given to `write`, and close."""


class Wakeups(Protocol):
    """Tells a watcher that something changed and should be read again."""

    async def wait(self) -> None:
        """Return at the next change, or at once if there was one since the last call."""
