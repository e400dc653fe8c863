"""The market's clock: a Clock, from a start of its own, that the control API can push forward. It never goes back."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from gpuproxy.ports import Clock


class SandboxClock:
    """Epoch seconds of the market. It follows the clock's monotonic time: corrections of the date don't move it."""

    def __init__(self, clock: Clock, *, start: float | None = None) -> None:
        """`start` is what now() reads at this moment (default: the clock's date)."""
        self._clock = clock
        begin = clock.now().timestamp() if start is None else start
        self._offset = begin - clock.monotonic()
        self.scale = clock.scale

    def now(self) -> float:
        """Epoch seconds."""
        return self._clock.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        """Let time jump forward."""
        self._offset += max(0.0, seconds)

    def not_before(self, moment: float) -> None:
        """Go on from a moment that was reached before."""
        self.advance(moment - self.now())

    async def sleep(self, seconds: float) -> None:
        """Wait for so many of the market's seconds."""
        await self._clock.sleep(seconds)

    async def sleep_real(self, seconds: float) -> None:
        """Wait for so many real seconds."""
        await self._clock.sleep(seconds * self.scale)


class RealTime:
    """The Clock of the sandbox's own process: the host's date at the start, then `scale` times as fast."""

    def __init__(self, scale: float = 1.0) -> None:
        """`scale` is how many seconds pass in a real one."""
        self.scale = scale
        self._origin = time.time()
        self._started = time.monotonic()

    def now(self) -> datetime:
        """Aware UTC."""
        return datetime.fromtimestamp(self._origin + self.monotonic(), UTC)

    def monotonic(self) -> float:
        """The clock's seconds since it was made."""
        return (time.monotonic() - self._started) * self.scale

    async def sleep(self, seconds: float) -> None:
        """Return after so many of the clock's seconds."""
        await asyncio.sleep(seconds / self.scale)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """As asyncio.timeout, in the clock's seconds."""
        return asyncio.timeout(seconds / self.scale)
