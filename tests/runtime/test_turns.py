"""Turns at an endpoint are shared between projects, and an interval lies between two calls."""

import asyncio

import pytest

from gpuproxy.runtime.turns import FairTurns
from tests.virtual_time import VirtualClock, run_virtual

_INTERVAL = 4.5


class Queue:
    """Callers of one endpoint, and when each of them was served."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.turns = FairTurns(clock, _INTERVAL)
        self.served: list[tuple[str, float]] = []

    async def call(self, project: str, *, used: bool = True, takes: float = 0.0) -> None:
        async with self.turns.turn(project) as turn:
            await self.clock.sleep(takes)
            turn.used = used
            self.served.append((project, self.clock.monotonic()))

    def calls(self, project: str, number: int) -> list["asyncio.Task[None]"]:
        return [asyncio.create_task(self.call(project)) for _ in range(number)]


def test_another_projects_call_waits_for_one_interval_of_a_flood_only():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        flood = queue.calls("flood", 20)
        await clock.sleep(1)
        await queue.call("small")
        assert queue.served[-1][1] <= 2 * _INTERVAL
        await asyncio.gather(*flood)
        assert [at for _, at in queue.served] == [n * _INTERVAL for n in range(21)]

    run_virtual(story)


def test_projects_take_turns_and_within_one_the_first_is_served_first():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        calls = [*queue.calls("a", 3), *queue.calls("b", 2), *queue.calls("c", 1)]
        await asyncio.gather(*calls)
        assert [project for project, _ in queue.served] == ["a", "b", "c", "a", "b", "a"]

    run_virtual(story)


def test_a_turn_in_which_nothing_is_sent_costs_no_interval():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        await queue.call("a")
        await asyncio.gather(queue.call("b", used=False), queue.call("c"))
        assert queue.served[1:] == [("b", _INTERVAL), ("c", _INTERVAL)]

    run_virtual(story)


def test_an_interval_counts_from_when_the_call_was_sent():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        await asyncio.gather(queue.call("a", takes=7), queue.call("b"))
        assert queue.served == [("a", 7), ("b", 7 + _INTERVAL)]

    run_virtual(story)


@pytest.mark.parametrize("after", [1.0, _INTERVAL])
def test_a_caller_that_leaves_the_queue_takes_no_turn(after: float):
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        await queue.call("a")
        leaving, staying = queue.calls("b", 1)[0], queue.calls("c", 1)[0]
        await clock.sleep(after)
        leaving.cancel()
        await asyncio.gather(leaving, staying, return_exceptions=True)
        assert queue.served[-1] == ("c", _INTERVAL)

    run_virtual(story)


def test_no_turn_begins_during_a_pause_of_the_provider():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        await queue.call("a")
        call = queue.calls("a", 1)[0]
        await clock.sleep(1)
        queue.turns.hold(30)
        await call
        assert queue.served[-1] == ("a", 31)

    run_virtual(story)


def test_the_estimated_wait_is_exact_if_no_other_caller_comes():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        await queue.call("a")
        flood = queue.calls("a", 10)
        await clock.sleep(1)
        assert queue.turns.wait("a") == pytest.approx(11 * _INTERVAL - 1)
        expected = [queue.turns.wait("b", more) for more in range(3)]
        small = queue.calls("b", 3)
        await asyncio.gather(*flood, *small)
        actual = [at - 1 for project, at in queue.served if project == "b"]
        assert all(each <= guess for each, guess in zip(actual, expected, strict=True))
        assert max(expected) <= 7 * _INTERVAL

    run_virtual(story)


def test_without_an_interval_nobody_waits():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        queue.turns = FairTurns(clock, 0.0)
        await asyncio.gather(*queue.calls("a", 5), *queue.calls("b", 5))
        assert {at for _, at in queue.served} == {0.0}

    run_virtual(story)


@pytest.mark.parametrize("seconds", [1e-6, 5e-7, 1.0])
def test_no_turn_begins_during_a_hold_however_short(seconds: float):
    """If it did, a process whose turn comes a microsecond later would ask again and again, and never wait."""

    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        queue.turns.hold(seconds)
        await queue.call("a")
        assert seconds <= queue.served[0][1] < seconds + 1e-5

    run_virtual(story)


def test_a_hold_of_nothing_delays_no_turn():
    async def story(clock: VirtualClock) -> None:
        queue = Queue(clock)
        queue.turns.hold(0.0)
        await queue.call("a")
        assert queue.served == [("a", 0.0)]

    run_virtual(story)
