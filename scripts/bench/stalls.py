"""How long the event loop did not turn while something else was done."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Stall:
    """The longest one so far, in milliseconds."""

    worst_ms: float = 0.0


@asynccontextmanager
async def watched() -> AsyncIterator[Stall]:
    """A task that asks for its turn all the time, and notes the longest wait for it."""
    stall = Stall()

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.0005)
            now = time.perf_counter()
            stall.worst_ms = max(stall.worst_ms, (now - last) * 1000 - 0.5)
            last = now

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    stall.worst_ms = 0.0
    try:
        yield stall
        await asyncio.sleep(0.002)
    finally:
        ticker.cancel()
