"""The real clock, randomness, threads and network probe: adapters of the ports that need no configuration."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from gpuproxy.ports import Clock

T = TypeVar("T")

_LETTERS = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""A letter for each byte, every letter for as many of them."""


class ScaledClock:
    """Real time, `scale` times as fast, from an origin; at scale 1 it is simply the time."""

    def __init__(self, scale: float = 1.0, *, origin: datetime | None = None) -> None:
        """`origin` is what now() reads at this moment (default: the real time)."""
        self.scale = scale
        self._started = _elapsed()
        self._origin = origin or datetime.now(UTC)
        self._follows_wall = scale == 1.0 and origin is None

    def now(self) -> datetime:
        """Aware UTC. At scale 1 the wall clock itself, so that it follows corrections of the host's time."""
        if self._follows_wall:
            return datetime.now(UTC)
        return self._origin + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The clock's seconds since it was made."""
        return (_elapsed() - self._started) * self.scale

    async def sleep(self, seconds: float) -> None:
        """Return after so many of the clock's seconds."""
        await asyncio.sleep(seconds / self.scale)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """As asyncio.timeout, in the clock's seconds."""
        return asyncio.timeout(seconds / self.scale)


class SteadyClock:
    """A clock whose date is read once, at the start; from then on only the time that really passes counts.

    Leases, quarantines and retries are durations: a correction of the host's time must not end or prolong them.
    """

    def __init__(self, clock: Clock, *, not_before: datetime | None = None) -> None:
        """It starts with the clock's date, or with `not_before` if that is later."""
        self.scale = clock.scale
        self._clock = clock
        self._started = clock.monotonic()
        self._origin = max(clock.now(), not_before or clock.now())

    def now(self) -> datetime:
        """Aware UTC."""
        return self._origin + timedelta(seconds=self._clock.monotonic() - self._started)

    def monotonic(self) -> float:
        """As the clock's."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after so many of the clock's seconds."""
        await self._clock.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """As asyncio.timeout, in the clock's seconds."""
        return self._clock.timeout(seconds)


class SystemRandom:
    """The operating system's randomness."""

    def token(self, length: int) -> str:
        """So many characters of lower-case base32."""
        return secrets.token_bytes(length).translate(_LETTERS).decode()

    def secret(self, length: int) -> bytes:
        """So many unguessable bytes."""
        return secrets.token_bytes(length)


class Threads:
    """The loop's own thread pool."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """The result of work(*args), run in a thread."""
        return await asyncio.to_thread(work, *args)


class SocketProbe:
    """Looks at machines through real sockets."""

    async def reachable(self, kind: Literal["tcp", "ssh"], host: str, port: int, timeout: float) -> bool:
        """tcp: it accepts; ssh: it accepts and greets with "SSH-". Never raises."""
        try:
            async with asyncio.timeout(timeout):
                return await _answers(kind, host, port)
        except (OSError, TimeoutError):
            return False


async def _answers(kind: str, host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return kind == "tcp" or (await reader.read(4)).startswith(b"SSH-")
    finally:
        writer.close()


def _elapsed() -> float:
    """Seconds that never jump; where the system can tell, those that it was suspended for are among them."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
