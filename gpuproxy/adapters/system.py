"""Adapters without configuration: the real clock, randomness, threads and network probe."""

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

from gpuproxy.adapters.ssh_login import SshLogin
from gpuproxy.ports import Clock
from gpuproxy.ports.probe import ProbeKind

T = TypeVar("T")

_PORTS = 65_536
_MOST_READ = 65_536
"""Bytes of an answer over HTTP."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?=[ \r])")
_IN_URLS = "%/?:@!$&'()*+,;=-._~[]"
_elapsed: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)
"""Monotonic seconds, including the time in system suspend where the platform supports that."""
_LETTERS = b"abcdefghijklmnopqrstuvwxyz234567" * 8
"""Maps each byte to a letter; each letter has the same number of bytes."""


class ScaledClock:
    """Real time that runs `scale` times as fast from an origin. At scale 1 without an origin it is the system time."""

    def __init__(self, scale: float = 1.0, *, origin: datetime | None = None) -> None:
        """`origin` is the value of now() at this moment; the default is the real time."""
        self.scale = scale
        self._started = _elapsed()
        self._origin = origin or datetime.now(UTC)
        self._follows_wall = scale == 1.0 and origin is None

    def now(self) -> datetime:
        """The time in aware UTC. At scale 1 it is the system time and follows corrections of the host's clock."""
        if self._follows_wall:
            return datetime.now(UTC)
        return self._origin + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Scaled seconds since the clock was created."""
        return (_elapsed() - self._started) * self.scale

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` scaled seconds."""
        await asyncio.sleep(seconds / self.scale)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """Like asyncio.timeout, in scaled seconds."""
        return asyncio.timeout(seconds / self.scale)


class SteadyClock:
    """A clock that reads the date once, at the start, and then counts elapsed time only.

    A correction of the host's time must not shorten or extend leases, waiting times and retries.
    """

    def __init__(self, clock: Clock, *, not_before: datetime | None = None) -> None:
        """The clock starts at the time of `clock`, or at `not_before` if that is later."""
        self.scale = clock.scale
        self._clock = clock
        self._started = clock.monotonic()
        self._origin = max(clock.now(), not_before or clock.now())

    def now(self) -> datetime:
        """The time in aware UTC."""
        return self._origin + timedelta(seconds=self._clock.monotonic() - self._started)

    def monotonic(self) -> float:
        """Scaled seconds of the underlying clock."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` scaled seconds."""
        await self._clock.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """Like asyncio.timeout, in scaled seconds."""
        return self._clock.timeout(seconds)


class DatabaseClock:
    """A clock that shows the time of a database, so that the dates of several processes agree.

    Between two readings of the database's time it counts elapsed time. It never goes back.
    """

    def __init__(self, clock: Clock, at: datetime, began: float) -> None:
        """`at`: the database's time between `began`, a reading of `clock.monotonic()`, and now."""
        self.scale = clock.scale
        self._clock = clock
        self._latest = self._origin = datetime.min.replace(tzinfo=UTC)
        self._started = began
        self.follow(at, began)

    def now(self) -> datetime:
        """The time in aware UTC."""
        self._latest = max(self._latest, self._at(self._clock.monotonic()))
        return self._latest

    def follow(self, at: datetime, began: float) -> None:
        """Correct the clock if it was wrong by more than the reading took."""
        ended = self._clock.monotonic()
        if self._at(began) > at:
            self._origin += at - self._at(began)
        elif self._at(ended) < at:
            self._origin += at - self._at(ended)

    def monotonic(self) -> float:
        """Scaled seconds of the underlying clock."""
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` scaled seconds."""
        await self._clock.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """Like asyncio.timeout, in scaled seconds."""
        return self._clock.timeout(seconds)

    def _at(self, reading: float) -> datetime:
        return self._origin + timedelta(seconds=reading - self._started)


class SystemRandom:
    """The operating system's randomness."""

    def token(self, length: int) -> str:
        """`length` random characters of lower-case base32."""
        return secrets.token_bytes(length).translate(_LETTERS).decode()

    def secret(self, length: int) -> bytes:
        """`length` random bytes for secrets."""
        return secrets.token_bytes(length)


class Threads:
    """Runs work in the thread pool of the event loop."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run work(*args) in a thread and return its result."""
        return await asyncio.to_thread(work, *args)


class SocketProbe:
    """Probes machines over real sockets."""

    def __init__(self, login: SshLogin | None = None) -> None:
        """`login` makes the logins of the kind "ssh_login"; without it, they all fail."""
        self._login = login

    async def reachable(
        self, kind: ProbeKind, host: str, port: int, timeout: float, *, path: str = "/", user: str = "root"
    ) -> bool:
        """True if the port accepts a connection ("tcp"), also sends "SSH-" ("ssh"), or lets the key in ("ssh_login").

        "http": a GET of `path` without TLS is answered with 2xx; redirects are not followed. Never raises, also for a
        host, a port or a path that can't exist. `timeout` is in real seconds, for all of it.
        """
        if not 0 < port < _PORTS or "\0" in host:  # uvloop would cut them short, and so probe another address
            return False
        if kind == "ssh_login":
            return self._login is not None and await self._login.succeeds(host, port, timeout, user=user)
        try:
            async with asyncio.timeout(timeout):
                return await _answers(kind, host, port, path)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            return False
        except (ValueError, OverflowError):  # no such host name or port can exist
            return False


async def _answers(kind: str, host: str, port: int, path: str) -> bool:
    reader, writer = await asyncio.open_connection(host, port, limit=_MOST_READ // 2)  # asyncio buffers twice as much
    try:
        if kind == "http":
            writer.write(_get(host, port, path))
            return await _succeeds(reader)
        return kind == "tcp" or (await reader.read(4)).startswith(b"SSH-")
    finally:
        writer.close()


def _get(host: str, port: int, path: str) -> bytes:
    """A request for the path and query. Characters that no URL can have are escaped, so nothing is added to it."""
    target = quote(f"/{path.partition('#')[0].removeprefix('/')}", safe=_IN_URLS)
    there = f"[{host}]" if ":" in host else host
    lines = (f"GET {target} HTTP/1.1", f"Host: {there}:{port}", "User-Agent: gpuproxy", "Accept: */*")
    return "\r\n".join((*lines, "Connection: close", "", "")).encode("ascii")


async def _succeeds(reader: asyncio.StreamReader) -> bool:
    """Whether the first final status of the answer is 2xx. Its body is not read."""
    left = _MOST_READ
    while left > 0:
        head = await reader.readuntil(b"\r\n\r\n")
        left -= len(head)
        status = _STATUS.match(head)
        if status is None or status[1][:1] != b"1":  # 1xx: another status follows
            return status is not None and status[1][:1] == b"2"
    return False
