"""Units of work that must not be lost, and reads that must have an answer. They are repeated until they succeed."""

from collections.abc import Callable
from typing import TypeVar

import structlog

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Clock, Database, Tx

log = structlog.get_logger(__name__)
T = TypeVar("T")

_AGAIN_SECONDS = 1.0


async def write_until_committed(db: Database, clock: Clock, unit: Callable[[Tx], T], subject: str) -> T:
    """Repeat `unit` until it is committed, and return its result. `subject` names it in the log."""
    while True:
        try:
            return await db.write(unit)
        except Unavailable as error:
            log.warning("database_unavailable", subject=subject, error=str(error.__cause__))
            await clock.sleep(_AGAIN_SECONDS)


async def read_until_answered(db: Database, clock: Clock, unit: Callable[[Tx], T], subject: str) -> T:
    """Repeat the read `unit` until the database answers, and return its result. `subject` names it in the log."""
    while True:
        try:
            return await db.read(unit)
        except Unavailable as error:
            log.warning("database_unavailable", subject=subject, error=str(error.__cause__))
            await clock.sleep(_AGAIN_SECONDS)
