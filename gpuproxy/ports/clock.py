"""Time."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol


class Clock(Protocol):
    """Time at a scale: everything below counts in the clock's own seconds unless it says "real"."""

    scale: float
    """How many of the clock's seconds pass in a real one."""

    def now(self) -> datetime:
        """Aware UTC."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many of the clock's seconds."""

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """As asyncio.timeout, in the clock's seconds."""
