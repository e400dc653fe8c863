"""The market's clock: it has its own start time, and the control API can move it forward. It never goes back."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from gpuproxy.ports import Clock


class SandboxClock:
    """The market's time in epoch seconds. It follows monotonic time, so corrections of the date don't change it."""

    def __init__(self, clock: Clock, *, start: float | None = None) -> None:
        """`start` is the value of now() at this moment; the default is the clock's date."""
        self._clock = clock
        begin = clock.now().timestamp() if start is None else start
        self._offset = begin - clock.monotonic()
        self.scale = clock.scale

    def now(self) -> float:
        """The market's time in epoch seconds."""
        return self._clock.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        """Move the time forward by `seconds`."""
        self._offset += max(0.0, seconds)

    def not_before(self, moment: float) -> None:
        """Move the time forward to `moment`, if it is earlier."""
        self.advance(moment - self.now())

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of the market's time."""
        await self._clock.sleep(seconds)

    async def sleep_real(self, seconds: float) -> None:
        """Sleep for `seconds` of real time."""
        await self._clock.sleep(seconds * self.scale)


class RealTime:
    """The Clock of the sandbox process: it starts at the host's date and runs `scale` times as fast."""

    def __init__(self, scale: float = 1.0) -> None:
        """`scale` is the number of seconds per real second."""
        self.scale = scale
        self._origin = time.time()
        self._started = time.monotonic()

    def now(self) -> datetime:
        """The time in aware UTC."""
        return datetime.fromtimestamp(self._origin + self.monotonic(), UTC)

    def monotonic(self) -> float:
        """Scaled seconds since the clock was created."""
        return (time.monotonic() - self._started) * self.scale

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` scaled seconds."""
        await asyncio.sleep(seconds / self.scale)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """Like asyncio.timeout, in scaled seconds."""
        return asyncio.timeout(seconds / self.scale)
