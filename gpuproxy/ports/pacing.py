"""Minimum intervals between calls: marketplaces limit each endpoint by account, and punish who ignores it.

A Pace hands out turns in order; the caller that would have to wait sleeps outside of any lock. What a 429 teaches
is kept: the interval never shrinks below what the provider named.
"""

from collections import deque

from gpuproxy.ports import Clock

MARGIN = 1.02
"""Of intervals: two calls may travel at different speeds, and who comes too early is punished with a longer wait."""


class Pace:
    """One endpoint of one account: at most one call every `interval` seconds."""

    def __init__(self, clock: Clock, interval: float) -> None:
        self._clock = clock
        self.interval = interval
        self._last_at = clock.monotonic() - interval

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
        """No turn before so many seconds from now: the provider said so."""
        self._last_at = max(self._last_at, self._clock.monotonic() + seconds - self.interval)


class Window:
    """One endpoint of one account: at most `calls` calls in any `seconds`, however they are spread."""

    def __init__(self, clock: Clock, calls: int, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._begun: deque[float] = deque(maxlen=calls)
        self._not_before = clock.monotonic()

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
        """No turn before so many seconds from now: the provider said so."""
        self._not_before = max(self._not_before, self._clock.monotonic() + seconds)

    def _next(self) -> float:
        full = len(self._begun) == self._begun.maxlen
        oldest = self._begun[0] + self._seconds if full else self._not_before
        return max(self._clock.monotonic(), self._not_before, oldest)
