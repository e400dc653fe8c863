"""The database port: durable units of work."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Tx(Protocol):
    """One unit of work inside a transaction. Rows are mappings by column name."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; returns the number of changed rows."""

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """All rows of a query."""

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """The first row of a query; None if there is none."""

    def now(self) -> datetime:
        """The database's time, by which claims and deadlines are judged. Aware UTC."""

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
    """Durable units of work. `fn` has no outside effects, because the database may run it again after a conflict."""

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction. When this returns, the writes survive a crash. Raises Unavailable."""

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on a consistent snapshot."""

    def watch(self, topic: str) -> AbstractAsyncContextManager["Wakeups"]:
        """Wakeups for the changes of a topic from now on."""

    async def close(self) -> None:
        """Flush and close."""


class Wakeups(Protocol):
    """Tells a watcher that something changed and should be read again."""

    async def wait(self) -> None:
        """Return at the next change, or at once if there was one since the last call."""
