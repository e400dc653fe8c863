"""A call that is answered at once needs no timer; one that waits is awaited as always."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gpuproxy.edge.rpc.begun import Begun


async def test_work_that_never_waits_has_ended_with_its_result() -> None:
    async def work() -> int:
        return 5

    begun = Begun(work())
    assert begun.ended
    assert begun.result == 5


async def test_work_that_waits_continues_where_it_stopped() -> None:
    steps: list[str] = []

    async def work() -> str:
        steps.append("begun")
        await asyncio.sleep(0)
        steps.append("after a turn of the loop")
        await asyncio.sleep(0.001)
        return "done"

    begun = Begun(work())
    assert not begun.ended
    assert steps == ["begun"]
    assert await begun == "done"
    assert steps[1:] == ["after a turn of the loop"]


@pytest.mark.parametrize("first", [True, False])
async def test_an_error_comes_out_as_it_is(first: bool) -> None:
    async def work() -> None:
        if not first:
            await asyncio.sleep(0)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await Begun(work())


async def test_a_timeout_and_a_cancellation_reach_the_work() -> None:
    async def cleaned(wait: Callable[[], Awaitable[object]], ends: list[str]) -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise
        finally:
            ends.append("cleaned up")

    ends: list[str] = []
    begun = Begun(cleaned(asyncio.Event().wait, ends))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await begun
    assert ends == ["cancelled", "cleaned up"]

    async def call() -> None:
        await Begun(cleaned(asyncio.Event().wait, ends))

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends[2:] == ["cancelled", "cleaned up"]
