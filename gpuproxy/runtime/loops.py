"""Background loops. Each loop has an owner and a step that a test can call once. It survives failures of its step."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Clock, Database

T = TypeVar("T")
Step = Callable[[], Awaitable[object]]

log = structlog.get_logger(__name__)

_AFTER_FAILURE = 5.0
_BREATH = 0.25


async def repeat(step: Step, pause: Callable[[], Awaitable[None]], clock: Clock, name: str) -> None:
    """Run steps for ever, with a pause after each."""
    while True:
        await guarded(step, clock, name)
        await pause()


async def repeat_every(step: Step, seconds: float, clock: Clock, name: str) -> None:
    """Run steps for ever, with `seconds` seconds after each."""
    await repeat(step, partial(clock.sleep, seconds), clock, name)


async def repeat_when_due(
    step: Callable[[], Awaitable[float]], topic: str, db: Database, clock: Clock, name: str
) -> None:
    """Run steps for ever. A step returns the seconds until the next one; a change of `topic` makes it due at once."""
    async with db.watch(topic) as wakeups:
        while True:
            seconds = await guarded(step, clock, name)
            await clock.sleep(_BREATH)  # a hundred changes at once are one step
            with suppress(TimeoutError):
                async with clock.timeout(seconds or 0.0):
                    await wakeups.wait()


async def guarded(
    step: Callable[[], Awaitable[T]], clock: Clock, name: str, *, after_failure: float = _AFTER_FAILURE
) -> T | None:
    """Run one step. A failure is logged with its traceback and followed by a pause; it never ends the loop."""
    try:
        return await step()
    except asyncio.CancelledError:
        raise
    except Unavailable as error:
        log.warning("step_postponed", loop=name, reason=error.reason)
        await clock.sleep(after_failure)
    except Exception:
        log.exception("step_failed", loop=name)
        await clock.sleep(after_failure)
    return None
