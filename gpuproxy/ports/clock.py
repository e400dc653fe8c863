"""The clock port."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, runtime_checkable


class Clock(Protocol):
    """Time at a scale. Seconds are the clock's own seconds, unless a text says "real seconds"."""

    scale: float
    """How many of the clock's seconds pass in one real second."""

    def now(self) -> datetime:
        """The date and time, aware UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start. They never jump."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of the clock's seconds."""

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """Like asyncio.timeout, in the clock's seconds."""


@runtime_checkable
class FollowingClock(Clock, Protocol):
    """A clock that follows another one: that of a database which several processes use."""

    def follow(self, at: datetime, began: float) -> None:
        """Note that the other clock stood at `at`, between `began`, a reading of `monotonic`, and now."""
