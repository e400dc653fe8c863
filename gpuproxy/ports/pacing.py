"""Minimum intervals between calls. Marketplaces limit the rate of calls for each endpoint and account.

A Pace gives turns in the order of requests; a caller that must wait sleeps outside of any lock. An interval that the
provider names in a 429 response is kept: it never becomes shorter.
"""

from collections import deque
from typing import Protocol

from gpuproxy.ports.clock import Clock

MARGIN = 1.02
"""A factor for intervals. Calls may travel at different speeds; one that arrives too early makes the wait longer."""


class SharedTurns(Protocol):
    """Turns at endpoints that several processes call with the same account."""

    async def turn(self, endpoint: str, calls: int, seconds: float) -> None:
        """Return when the next call may be sent: at most `calls` calls in any `seconds`."""

    def hold(self, endpoint: str, seconds: float) -> None:
        """Let no process begin a turn for `seconds` seconds."""


class Pace:
    """One endpoint of one account: at most one call every `interval` seconds."""

    def __init__(self, clock: Clock, interval: float) -> None:
        self._clock = clock
        self.interval = interval
        self._last_at = clock.monotonic() - interval

    @property
    def rate(self) -> tuple[int, float]:
        """So many calls in so many seconds."""
        return 1, self.interval

    async def turn(self) -> None:
        """Return when the next call may be sent."""
        wait = self.reserve()
        if wait > 0:
            await self._clock.sleep(wait)

    def reserve(self) -> float:
        """Take the next turn; the seconds until it begins."""
        now = self._clock.monotonic()
        begins = max(self._last_at + self.interval, now)
        self._last_at = begins
        return max(0.0, begins - now)

    def wait(self) -> float:
        """The seconds until a turn would begin, without taking it."""
        now = self._clock.monotonic()
        return max(0.0, self._last_at + self.interval - now)

    def hold(self, seconds: float) -> None:
        """Begin no turn for `seconds` seconds, because the provider asked for a pause."""
        self._last_at = max(self._last_at, self._clock.monotonic() + seconds - self.interval)


class Window:
    """One endpoint of one account: at most `calls` calls in any `seconds`, however they are spread."""

    def __init__(self, clock: Clock, calls: int, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._begun: deque[float] = deque(maxlen=calls)
        self._not_before = clock.monotonic()

    @property
    def rate(self) -> tuple[int, float]:
        """So many calls in so many seconds."""
        return self._begun.maxlen or 1, self._seconds

    async def turn(self) -> None:
        """Return when the next call may be sent."""
        begins = self._next()
        self._begun.append(begins)
        if (wait := begins - self._clock.monotonic()) > 0:
            await self._clock.sleep(wait)

    def wait(self) -> float:
        """The seconds until a turn would begin, without taking it."""
        return self._next() - self._clock.monotonic()

    def hold(self, seconds: float) -> None:
        """Begin no turn for `seconds` seconds, because the provider asked for a pause."""
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    def _next(self) -> float:
        full = len(self._begun) == self._begun.maxlen
        oldest = self._begun[0] + self._seconds if full else self._not_before
        return max(self._clock.monotonic(), self._not_before, oldest)
