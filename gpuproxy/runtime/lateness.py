"""How late the event loop of this process runs. While it does not run, no answer can be received.

A background task sleeps for a short time, again and again, and measures how much too late each sleep ends. Code that
judges a time without an answer first subtracts `within(seconds)` from it. In simulated time no `watch` runs, and the
lateness is zero.

Lateness only shortens the silence of a marketplace. It never changes the outcome of a call: a create whose answer came
too late has an unknown outcome, no matter who was late.
"""

from bisect import bisect_right
from collections.abc import Callable

from gpuproxy.ports import Clock

_TICK_SECONDS = 0.1
"""Real seconds between two measurements."""
_NOISE_SECONDS = 0.02
"""Real seconds. Shorter delays are normal on an idle machine and do not count."""
_KEPT = 4096
"""The number of delays that are remembered. `within` does not count older ones."""


def _unobserved(_seconds: float) -> None:
    """The measurements are not reported."""


class Lateness:
    """The lateness of one event loop. Seconds are those of the clock, unless they are called real."""

    def __init__(self, clock: Clock) -> None:
        """The lateness is zero until `watch` runs."""
        self._clock = clock
        self._due: float | None = None
        """When the current sleep should end; None while `watch` does not run."""
        self._began: list[float] = []
        self._ended: list[float] = []
        self._total = 0.0

    async def watch(self, observe: Callable[[float], None] = _unobserved) -> None:
        """Measure until cancelled. `observe` is called with each measurement in real seconds."""
        tick = _TICK_SECONDS * self._clock.scale
        try:
            while True:
                due = self._due = self._clock.monotonic() + tick
                await self._clock.sleep(tick)
                now = self._clock.monotonic()
                observe(max(0.0, now - due) / self._clock.scale)
                self.note(due, now)
        finally:
            self._due = None

    def note(self, due: float, ended: float) -> None:
        """Record that a sleep ended at `ended` instead of `due` (readings of Clock.monotonic())."""
        if (ended - due) / self._clock.scale <= _NOISE_SECONDS:
            return
        self._began.append(due)
        self._ended.append(ended)
        self._total += ended - due
        if len(self._ended) > 2 * _KEPT:
            del self._began[:-_KEPT], self._ended[:-_KEPT]

    def total(self) -> float:
        """The seconds of lateness so far, including a delay that is not measured yet."""
        return self._total + self._present(self._clock.monotonic(), float("-inf"))

    def within(self, seconds: float) -> float:
        """The seconds of lateness within the last `seconds`."""
        now = self._clock.monotonic()
        since = now - seconds
        first = bisect_right(self._ended, since)
        late = sum(
            ended - max(began, since) for began, ended in zip(self._began[first:], self._ended[first:], strict=True)
        )
        return max(0.0, min(seconds, late + self._present(now, since)))

    def _present(self, now: float, since: float) -> float:
        """The lateness of the current sleep after `since`."""
        if self._due is None:
            return 0.0
        late = now - max(self._due, since)
        return late if late / self._clock.scale > _NOISE_SECONDS else 0.0
