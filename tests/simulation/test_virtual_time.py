import asyncio
import time
from datetime import timedelta

import pytest

from tests.virtual_time import DAY_ONE, DeadlockError, LivelockError, VirtualClock, run_virtual


def test_a_day_passes_without_waiting() -> None:
    async def main(clock: VirtualClock) -> float:
        await clock.sleep(86_400)
        assert clock.now() == DAY_ONE + timedelta(days=1)
        return clock.monotonic()

    assert run_virtual(main) == 86_400


def test_sleepers_wake_in_the_order_of_their_times() -> None:
    async def main(clock: VirtualClock) -> list[int]:
        woken: list[int] = []

        async def sleeper(seconds: int) -> None:
            await clock.sleep(seconds)
            woken.append(seconds)

        await asyncio.gather(*(sleeper(seconds) for seconds in (30, 10, 20)))
        return woken

    assert run_virtual(main) == [10, 20, 30]


def test_a_timeout_ends_what_would_take_longer() -> None:
    async def main(clock: VirtualClock) -> float:
        with pytest.raises(TimeoutError):
            async with clock.timeout(5):
                await asyncio.Event().wait()
        return clock.monotonic()

    assert run_virtual(main) == 5


def test_waiting_for_an_event_that_can_not_happen_is_an_error_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError):
        run_virtual(main)


def test_asking_again_without_ever_waiting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        while clock.monotonic() < 1:
            await clock.sleep(0)

    monkeypatch.setattr("tests.virtual_time._MOST_ROUNDS", 2000)
    with pytest.raises(LivelockError):
        run_virtual(main)


def test_many_rounds_are_no_error_as_long_as_time_moves_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(clock: VirtualClock) -> None:
        for _ in range(20):
            for _ in range(1000):
                await clock.sleep(0)
            await clock.sleep(1e-3)

    monkeypatch.setattr("tests.virtual_time._MOST_ROUNDS", 2000)
    run_virtual(main)


def test_a_jump_of_the_wall_clock_moves_no_timer() -> None:
    async def main(clock: VirtualClock) -> float:
        clock.jump(-3600)
        assert clock.now() == DAY_ONE - timedelta(hours=1)
        await clock.sleep(1)
        return clock.monotonic()

    assert run_virtual(main) == 1


def test_threads_are_refused() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.to_thread(time.monotonic)

    with pytest.raises(AssertionError, match="thread"):
        run_virtual(main)
