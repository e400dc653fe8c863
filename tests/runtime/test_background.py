"""Tasks that nobody awaits have an owner: it drains them, ends them, and logs their crashes."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.errors import Unavailable
from gpuproxy.model.reasons import Reason
from gpuproxy.runtime.background import Background


async def crash() -> None:
    raise RuntimeError("a bug")


async def refuse() -> None:
    raise Unavailable("not now", reason=Reason.UNAVAILABLE)


async def test_a_crash_is_logged_with_its_subject_although_nobody_awaits_the_task() -> None:
    background = Background("effect")
    with capture_logs() as lines:
        background.start(crash(), "lease-1")
        await background.finished()
    (line,) = lines
    assert (line["event"], line["kind"], line["subject"]) == ("task_crashed", "effect", "lease-1")
    assert isinstance(line["exc_info"], RuntimeError)


async def test_a_refusal_and_a_cancellation_are_no_crashes() -> None:
    background = Background("effect")
    with capture_logs() as lines:
        background.start(refuse())
        background.start(asyncio.sleep(3600)).cancel()
        await background.finished()
    assert not lines


async def test_whoever_awaits_the_task_gets_its_result_or_its_error() -> None:
    background = Background("effect")
    assert await background.start(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(Unavailable):
        await background.start(refuse())


async def test_a_drain_waits_for_every_task() -> None:
    background, ended = Background("effect"), asyncio.Event()

    async def work() -> None:
        await ended.wait()

    tasks = [background.start(work()) for _ in range(3)]
    asyncio.get_running_loop().call_soon(ended.set)
    assert await background.drain(60)
    assert all(task.done() for task in tasks)
    assert not background


async def test_a_drain_that_takes_too_long_leaves_its_tasks_running() -> None:
    background = Background("effect")
    task = background.start(asyncio.Event().wait())
    assert not await background.drain(0)
    assert not task.done()
    await background.close()


async def test_a_close_cancels_what_is_running_and_returns_when_it_has_ended() -> None:
    background = Background("effect")
    task = background.start(asyncio.Event().wait())
    await background.close()
    assert task.cancelled()
    assert not background


async def test_a_subject_runs_once_at_a_time_and_again_afterwards() -> None:
    background, runs = Background("effect"), 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    background.start_once(work, "lease-1")
    background.start_once(work, "lease-1")
    background.start_once(work, "lease-2")
    await background.finished()
    assert runs == 2
    background.start_once(work, "lease-1")
    await background.finished()
    assert runs == 3
