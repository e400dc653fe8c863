"""Turns at one endpoint of one account, shared fairly between projects."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gpuproxy.ports import Clock
from gpuproxy.ports.pacing import MARGIN, Pace
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.backoff import Backoff

_INSTANT = 1e-6
"""Seconds. A shorter wait is a rounding error, so a turn begins at once."""
_REMEMBERED = 1000
"""How many projects' last turns are remembered. Forgotten projects count as never served."""
_LONGEST_PAUSE = 120.0
"""The longest pause that is not the provider's own, in seconds."""


@dataclass(slots=True)
class Turn:
    """The right to send one call now. A turn that is not used does not delay the next call."""

    used: bool = False


class FairTurns:
    """One endpoint of one account, shared between projects: one call every `interval` seconds, each project in turn.

    The next turn goes to the waiting project whose last turn is the longest ago. Within a project, turns are given in
    the order of requests. So a project with many calls delays the next call of another project by one interval only.
    An interval begins when the previous call is sent.
    """

    def __init__(self, clock: Clock, interval: float, *, seed: str = "") -> None:
        """`seed`: of the jitter of pauses."""
        self._clock = clock
        self._pace = Pace(clock, interval)
        self._seed = seed
        self._again: Backoff | None = None
        """Set after a rate limit until a call is accepted."""
        self._paused_until = clock.monotonic()
        self._disturbed = asyncio.Event()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By project."""
        self._served: OrderedDict[str, int] = OrderedDict()
        """The number of each project's last turn, oldest first."""
        self._turns = 0
        self._taken = False
        self._timer = Background("turn")
        self._timer_is_set = False

    @asynccontextmanager
    async def turn(self, project: str) -> AsyncIterator[Turn]:
        """Wait for a turn. The caller sets `used` when it is about to send its call. There is one turn at a time."""
        await self._take(project)
        turn = Turn()
        try:
            yield turn
        finally:
            if turn.used:
                self._pace.hold(self._pace.interval)
            self._end_turn()

    def wait(self, project: str, more: int = 0) -> float:
        """An estimate of the seconds until `project` would get a turn if `more` of its calls were already waiting."""
        own = len(self._waiting.get(project, ())) + more
        others = sum(min(len(queue), own + 1) for name, queue in self._waiting.items() if name != project)
        return self._pace.wait() + (own + others) * self._pace.interval

    @property
    def pause(self) -> float:
        """The seconds until the next turn can begin."""
        return self._pace.wait()

    @property
    def limited(self) -> float:
        """The seconds until the end of a pause that a rate limit caused."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    @property
    def interval(self) -> float:
        """The seconds between two turns."""
        return self._pace.interval

    def hold(self, seconds: float) -> None:
        """Begin no turn for `seconds` seconds. Even the shortest hold delays the next turn."""
        if seconds > 0:
            self._pace.hold(max(seconds, 2 * _INSTANT))

    @property
    def disturbed(self) -> asyncio.Event:
        """Set at the next `disturb`. Whoever waits for a turn should then look for another account."""
        return self._disturbed

    def disturb(self) -> None:
        """Tell all who wait for a turn that the account got worse."""
        self._disturbed.set()
        self._disturbed = asyncio.Event()

    def slow_down(self, seconds: float, interval: float | None) -> float:
        """Obey a rate limit: pause for `seconds`. Returns the seconds of the pause.

        If the provider names an interval, keep at least that from now on. If a call after the pause is limited again,
        the next pause is longer, with jitter, up to two minutes; it is never shorter than `seconds`.
        """
        self._pace.interval = max(self._pace.interval, (interval or 0.0) * MARGIN)
        now = self._clock.monotonic()
        if self._again is None:
            self._again = Backoff(self._seed, first=2 * seconds, most=_LONGEST_PAUSE)
        elif now >= self._paused_until:  # else the call was sent before the pause began
            seconds = max(seconds, self._again.failed())
        self._paused_until = max(self._paused_until, now + seconds)
        self._pace.hold(seconds)
        self.disturb()
        return seconds

    def accepted(self) -> None:
        """A call was not limited, so the next limit is the first one again."""
        self._again = None

    async def close(self) -> None:
        """Grant no more turns."""
        await self._timer.close()

    async def _take(self, project: str) -> None:
        if not self._taken and not self._waiting and self._pace.wait() <= _INSTANT:
            self._grant(project)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(project, deque()).append(granted)
        self._serve()
        try:
            await asyncio.wait([granted])  # unlike `await granted`, this does not cancel `granted` itself
        except asyncio.CancelledError:
            if granted.done():
                self._end_turn()
            else:
                self._forget(project, granted)
            raise

    def _end_turn(self) -> None:
        self._taken = False
        self._serve()

    def _serve(self) -> None:
        """Grant the next turn if it is free and due. Otherwise set a timer that calls this again when it is due."""
        if self._taken or not self._waiting:
            return
        if (wait := self._pace.wait()) > _INSTANT:
            if not self._timer_is_set:
                self._timer_is_set = True
                self._timer.start(self._serve_after(wait))
            return
        project = min(self._waiting, key=lambda name: self._served.get(name, 0))
        queue = self._waiting[project]
        granted = queue.popleft()
        if not queue:
            del self._waiting[project]
        self._grant(project)
        granted.set_result(None)

    def _grant(self, project: str) -> None:
        self._taken = True
        self._turns += 1
        self._served[project] = self._turns
        self._served.move_to_end(project)
        if len(self._served) > _REMEMBERED:
            self._served.popitem(last=False)

    async def _serve_after(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._timer_is_set = False
        self._serve()

    def _forget(self, project: str, granted: "asyncio.Future[None]") -> None:
        queue = self._waiting[project]
        queue.remove(granted)
        if not queue:
            del self._waiting[project]
