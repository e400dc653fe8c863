"""The ledger's periodic step: the cost of open meters is posted at every full hour (UTC)."""

from datetime import timedelta

import structlog

from gpuproxy.ports import Clock, Database
from gpuproxy.store import ledger, ledger_check

log = structlog.get_logger(__name__)
_METERS = 200
_BREATH = 0.1
"""Seconds between two units of work, so that other writes are not delayed."""
_HOUR = timedelta(hours=1)
_MARGIN = 1.0
"""Seconds after the hour. A clock that is a little behind has reached the hour then."""


class Posting:
    """Posts full hours. A step that did not run, or ran twice, changes nothing: the next one posts what is left."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def check(self) -> None:
        """Log an error for each sum of the ledger that is wrong."""
        for problem in await self._db.read(ledger_check.quick):
            log.error("ledger_unbalanced", problem=problem)

    async def step(self) -> None:
        """Post all full hours of all open meters, in small units of work. Without any, nothing is written."""
        while await self._db.read(ledger.has_unposted_hours):
            await self._db.write(lambda tx: ledger.post_hours(tx, _METERS))
            await self._clock.sleep(_BREATH)

    async def wait(self) -> None:
        """Sleep until shortly after the next full hour."""
        now = self._clock.now()
        hour = now.replace(minute=0, second=0, microsecond=0) + _HOUR
        await self._clock.sleep((hour - now).total_seconds() + _MARGIN)
