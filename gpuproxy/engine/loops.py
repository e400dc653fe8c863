"""Background work: every loop has an owner, a step that a test can call once, and survives its own failures."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from gpuproxy.engine.observe import AccountWatch
from gpuproxy.engine.settling import Settling
from gpuproxy.engine.witness import Witness
from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Clock, Database
from gpuproxy.store.leases import due_topic

T = TypeVar("T")

log = structlog.get_logger(__name__)

_AFTER_FAILURE = 5.0
_BREATH = 0.25


async def watch_forever(watch: AccountWatch, clock: Clock) -> None:
    """Pass after pass over one account."""
    while True:
        await guarded(watch.look, clock, f"watch {watch.provider.account}")
        await watch.wait()


async def due_forever(watch: AccountWatch, db: Database, clock: Clock) -> None:
    """What one account's leases have coming, each at its own time, and at once when the books change."""
    async with db.watch(due_topic(watch.provider.name, watch.provider.account)) as wakeups:
        while True:
            seconds = await guarded(watch.due, clock, f"due {watch.provider.account}")
            await clock.sleep(_BREATH)  # a hundred changes at once are one look
            with suppress(TimeoutError):
                async with clock.timeout(seconds or 0.0):
                    await wakeups.wait()


async def witness_forever(witness: Witness, clock: Clock, seconds: float) -> None:
    """Comparison after comparison of one account."""
    while True:
        await guarded(witness.step, clock, f"witness {witness.provider.account}")
        await clock.sleep(seconds)


async def settle_forever(settling: Settling, clock: Clock, seconds: float) -> None:
    """Settlement after settlement of one account."""
    while True:
        await guarded(settling.step, clock, f"settle {settling.provider.account}")
        await clock.sleep(seconds)


async def guarded(step: Callable[[], Awaitable[T]], clock: Clock, name: str) -> T | None:
    """One step; a failure is logged with its traceback and followed by a pause, never by the end of the loop."""
    try:
        return await step()
    except asyncio.CancelledError:
        raise
    except Unavailable as error:
        log.warning("step_postponed", loop=name, reason=error.reason)
        await clock.sleep(_AFTER_FAILURE)
    except Exception:
        log.exception("step_failed", loop=name)
        await clock.sleep(_AFTER_FAILURE)
    return None
