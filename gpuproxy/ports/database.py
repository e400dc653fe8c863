"""Durable units of work."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Tx(Protocol):
    """One unit of work inside a transaction. Rows are mappings by column name."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows that changed."""

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """All rows."""

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """The first row, or None."""

    def now(self) -> datetime:
        """The database's time: what claims and deadlines are judged by."""

    def changed(self, topic: str) -> None:
        """Wake the watchers of `topic` once this unit is committed."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call it once this unit is committed, on the loop and in the context of who wrote it.

        Never for a unit that failed or ran again; what it raises is logged and goes no further. After a crash between
        the commit and the call, it is not called.
        """

    def lasting(self) -> bool:
        """False while what is written would not be found again: the database's file was removed or replaced."""

    def before_spending(self) -> None:
        """Call it before what is paid for: raises Unavailable while the books serve for giving back only.

        That is when the last room on the disk is kept for it, or when they are not `lasting`.
        """


class Database(Protocol):
    """Durable units of work: `fn` has no outside effects and may run again when the database asks for it."""

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction; when this returns, it survives a crash."""

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on a consistent snapshot."""

    def watch(self, topic: str) -> AbstractAsyncContextManager["Wakeups"]:
        """Wakeups for a topic, from now on."""

    async def close(self) -> None:
        """Flush and close."""


class Wakeups(Protocol):
    """Something changed; look again."""

    async def wait(self) -> None:
        """Return at the next change, or at once when one came since the last call."""
