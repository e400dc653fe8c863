"""Time that passes only while everybody waits: a test of an hour takes as long as its arithmetic.

`run_virtual` runs a coroutine on a loop of its own whose clock jumps to the next timer whenever nothing is ready.
No threads, no real sleeping; a loop that could only wait for ever is an error at once, not a hanging test.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

DAY_ONE = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)
_MOST_ROUNDS = 500_000


class DeadlockError(AssertionError):
    """Everybody waits, and no timer is set that could wake anybody."""


class LivelockError(AssertionError):
    """Somebody asks again and again without ever waiting, so time stands still."""


class VirtualClock:
    """The Clock port on the time of a virtual loop. Scale 1: the clock's seconds are the loop's."""

    scale = 1.0

    def __init__(self, start: datetime = DAY_ONE) -> None:
        """`start` is what now() reads when the loop's time is 0."""
        self._start = start

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)

    def jump(self, seconds: float) -> None:
        """Correct the wall clock, forwards or back; monotonic() and everything that waits stay as they are."""
        self._start += timedelta(seconds=seconds)

    def stall(self, seconds: float) -> None:
        """Let so much time pass while nobody gets to run; whatever was due meanwhile comes late."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _VirtualLoop)
        loop.stall(seconds)


class SkewedClock:
    """The clock of a machine whose date is wrong."""

    scale = 1.0

    def __init__(self, clock: VirtualClock, seconds: float) -> None:
        """`seconds`: how far the date is ahead."""
        self._clock = clock
        self._ahead = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return self._clock.now() + self._ahead

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        return self._clock.timeout(seconds)


def run_virtual(main: Callable[[VirtualClock], Awaitable[T]], *, start: datetime = DAY_ONE) -> T:
    """The result of main(clock). Tasks that it leaves behind are cancelled. Raises DeadlockError, LivelockError."""
    clock = VirtualClock(start)

    async def body() -> T:
        return await main(clock)

    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(body())


def virtual_runner() -> asyncio.Runner:
    """For tests that run one coroutine after another on the same virtual time."""
    return asyncio.Runner(loop_factory=_VirtualLoop)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selector_of_time = _TimeSelector()
        super().__init__(self._selector_of_time)

    def time(self) -> float:
        return self._selector_of_time.time

    def stall(self, seconds: float) -> None:
        self._selector_of_time.time += seconds

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise AssertionError("a thread in virtual time: its result would not be deterministic")


class _TimeSelector(selectors.SelectSelector):
    """Where the loop would wait, time moves on instead."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self._rounds = 0
        """Rounds of the loop since time moved on."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            if ready := super().select(0):
                return ready
            raise DeadlockError("everybody waits and nothing will ever happen")
        before = self.time
        self.time += max(0.0, timeout)  # 0: something is ready to run. Nothing comes from outside in the meantime
        self._rounds = self._rounds + 1 if self.time == before else 0
        if self._rounds > _MOST_ROUNDS:
            self._rounds = 0
            raise LivelockError(f"{_MOST_ROUNDS} rounds of the loop, and it is still {self.time}")
        return []
