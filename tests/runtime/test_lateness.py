"""How late the loop was, and that nothing but lateness is called lateness."""

import asyncio

import pytest

from gpuproxy.runtime.lateness import Lateness
from tests.virtual_time import VirtualClock, run_virtual


async def watched(clock: VirtualClock, lateness: Lateness) -> "asyncio.Task[None]":
    task = asyncio.create_task(lateness.watch())
    await clock.sleep(1)
    return task


def test_a_loop_that_is_on_time_has_no_lateness() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        watch = await watched(clock, lateness)
        await clock.sleep(1000)
        assert (lateness.total(), lateness.within(1000)) == (0, 0)
        watch.cancel()

    run_virtual(main)


def test_a_standstill_is_lateness_up_to_the_tick_in_which_it_began() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        watch = await watched(clock, lateness)
        clock.stall(60)
        await clock.sleep(1)
        assert lateness.total() == pytest.approx(60, abs=0.11)
        assert lateness.within(1000) == lateness.total()
        watch.cancel()

    run_virtual(main)


def test_only_what_overlaps_the_time_asked_for_counts() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        for due in (100, 200, 300):
            lateness.note(due, due + 50)
        await clock.sleep(400)
        assert [lateness.within(seconds) for seconds in (0, 50, 60, 100, 160, 400)] == [0, 0, 10, 50, 60, 150]
        assert lateness.total() == 150

    run_virtual(main)


def test_a_standstill_counts_before_the_meter_itself_has_run_again() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        watch = await watched(clock, lateness)
        clock.stall(60)
        assert lateness.within(1000) == pytest.approx(60, abs=0.11)
        assert lateness.within(20) == pytest.approx(20)
        assert lateness.total() == pytest.approx(60, abs=0.11)
        watch.cancel()

    run_virtual(main)


def test_without_a_watch_there_is_no_lateness() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        clock.stall(60)
        await clock.sleep(1)
        watch = await watched(clock, lateness)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        clock.stall(60)
        assert (lateness.total(), lateness.within(1000)) == (0, 0)

    run_virtual(main)


def test_the_jitter_of_an_idle_machine_does_not_count_as_lateness() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        for tick in range(100):
            lateness.note(tick, tick + 0.01)
        assert lateness.total() == 0

    run_virtual(main)


def test_what_was_forgotten_is_the_oldest_and_makes_the_lateness_smaller_never_greater() -> None:
    async def main(clock: VirtualClock) -> None:
        lateness = Lateness(clock)
        for second in range(50_000):
            lateness.note(second, second + 0.5)
        await clock.sleep(50_000)
        assert lateness.within(1000) == pytest.approx(500)
        assert 1000 < lateness.within(50_000) < 25_000
        assert lateness.total() == pytest.approx(25_000)

    run_virtual(main)


def test_each_measurement_is_observed_in_real_seconds() -> None:
    async def main(clock: VirtualClock) -> None:
        seen: list[float] = []
        watch = asyncio.create_task(Lateness(clock).watch(seen.append))
        await clock.sleep(1.05)
        assert seen == pytest.approx([0.0] * 10)
        clock.stall(3)
        await clock.sleep(0.05)
        assert seen[10] == pytest.approx(3, abs=0.11)
        watch.cancel()

    run_virtual(main)
