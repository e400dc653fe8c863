"""How late this process's event loop runs: time in which nobody here listened, so that its silence proves nothing.

A background task asks for short sleeps and measures how much later than asked each of them ends. Whoever concludes
something from the time that passed without an answer subtracts `within(seconds)` first. Where nobody runs `watch`, as
in simulated time, the lateness is zero.

The rule: lateness excuses a marketplace. It never changes what may have happened there: a create whose answer came too
late is of unknown outcome, whoever was late.
"""

from bisect import bisect_right
from collections.abc import Callable

from gpuproxy.ports import Clock

_TICK_SECONDS = 0.1
"""Real seconds between two measurements; a standstill is measured from the end of the tick in which it began."""
_NOISE_SECONDS = 0.02
"""Real seconds; an idle machine is as late as that now and then."""
_KEPT = 4096
"""Spells of lateness; older ones are forgotten. Then `within` returns less than there was."""


def _unobserved(_seconds: float) -> None:
    """Nobody wants to know each measurement."""


class Lateness:
    """One event loop. Seconds are the clock's, unless they are called real."""

    def __init__(self, clock: Clock) -> None:
        """Zero until somebody runs `watch`."""
        self._clock = clock
        self._due: float | None = None
        """When the sleep under way is to end; None while nobody watches."""
        self._began: list[float] = []
        self._ended: list[float] = []
        self._total = 0.0

    async def watch(self, observe: Callable[[float], None] = _unobserved) -> None:
        """Measure until cancelled; `observe` gets each measurement, in real seconds."""
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
        """A sleep that was to end at `due` ended at `ended`: readings of Clock.monotonic()."""
        if (ended - due) / self._clock.scale <= _NOISE_SECONDS:
            return
        self._began.append(due)
        self._ended.append(ended)
        self._total += ended - due
        if len(self._ended) > 2 * _KEPT:
            del self._began[:-_KEPT], self._ended[:-_KEPT]

    def total(self) -> float:
        """The seconds of lateness so far, those of a standstill that has just ended included."""
        return self._total + self._present(self._clock.monotonic(), float("-inf"))

    def within(self, seconds: float) -> float:
        """For how many of the last `seconds` the loop was late; at most `seconds`."""
        now = self._clock.monotonic()
        since = now - seconds
        first = bisect_right(self._ended, since)
        late = sum(
            ended - max(began, since) for began, ended in zip(self._began[first:], self._ended[first:], strict=True)
        )
        return min(seconds, late + self._present(now, since))

    def _present(self, now: float, since: float) -> float:
        """The part of the sleep under way that is over its time, after `since`."""
        if self._due is None:
            return 0.0
        late = now - max(self._due, since)
        return late if late / self._clock.scale > _NOISE_SECONDS else 0.0
