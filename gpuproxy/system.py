"""The real clock, randomness, threads and network probe: adapters of the ports that need no configuration."""

import asyncio
import base64
import random
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ScaledClock:
    """Real time, `scale` times as fast, from an origin; at scale 1 it is simply the time."""

    def __init__(self, scale: float = 1.0, *, origin: datetime | None = None) -> None:
        """`origin` is what now() reads at this moment (default: the real time)."""
        self.scale = scale
        self._started = time.monotonic()
        self._origin = origin or datetime.now(UTC)
        self._follows_wall = scale == 1.0 and origin is None

    def now(self) -> datetime:
        """Aware UTC. At scale 1 the wall clock itself, so that it follows corrections of the host's time."""
        if self._follows_wall:
            return datetime.now(UTC)
        return self._origin + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The clock's seconds since it was made."""
        return (time.monotonic() - self._started) * self.scale

    async def sleep(self, seconds: float) -> None:
        """Return after so many of the clock's seconds."""
        await asyncio.sleep(seconds / self.scale)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """As asyncio.timeout, in the clock's seconds."""
        return asyncio.timeout(seconds / self.scale)


class SystemRandom:
    """The operating system's randomness."""

    def token(self, length: int) -> str:
        """So many characters of lower-case base32."""
        return base64.b32encode(secrets.token_bytes(length)).decode().lower()[:length]

    def secret(self, length: int) -> bytes:
        """So many unguessable bytes."""
        return secrets.token_bytes(length)

    def jitter(self) -> float:
        """A number in [0, 1)."""
        return random.random()


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
