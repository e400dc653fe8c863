"""How long finished reservations are kept.

A reservation is deleted when all of it ended longer ago than the setting says, its charges can no longer be corrected,
and the billing check of its accounts has passed its end. Its sums, request_id and labels are kept for ever.
"""

from datetime import datetime, timedelta

import structlog

from gpuproxy.billing.check import reading_of
from gpuproxy.model.leases import ReservationId
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.transactions import KEPT_AT_LEAST
from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.store import history, replay
from gpuproxy.store.history import FIRST, Place
from gpuproxy.store.rows import moment

log = structlog.get_logger(__name__)

_EVENTS = 500
_RESERVATIONS = 50
_BREATH = 0.1
"""Seconds between two units of work, so that other writes are not delayed."""


class History:
    """Moves the checkpoint of the counters, and deletes what is older than `keep`. None: nothing is deleted."""

    def __init__(self, db: Database, clock: Clock, keep: timedelta | None) -> None:
        self._db = db
        self._clock = clock
        self._last = clock.now()  # the start recomputes the counters itself
        self._keep = None if keep is None else max(keep, KEPT_AT_LEAST)

    async def step_when_due(self, seconds: float) -> None:
        """Do a step if the last one, or the start, was at least so many seconds ago. The true-ups' loop calls it."""
        now = self._clock.now()
        if now >= self._last + timedelta(seconds=seconds):
            self._last = now
            await self.step()

    async def step(self) -> None:
        """Do all that is due, in small units of work."""
        while await self._db.write(lambda tx: replay.fold(tx, _EVENTS)) == _EVENTS:
            await self._clock.sleep(_BREATH)
        if self._keep is None:
            return
        before, after, deleted = self._clock.now() - self._keep, FIRST, 0
        while (place := await self._delete(before, after)) is not None:
            after, number = place
            deleted += number
            await self._clock.sleep(_BREATH)
        if deleted:
            log.info("history_deleted", reservations=deleted, ended_before=before.isoformat())

    async def _delete(self, before: datetime, after: Place) -> tuple[Place, int] | None:
        """Up to which place one unit of work came, and the number of reservations that it deleted; None: no more."""

        def write(tx: Tx) -> tuple[Place, int] | None:
            places = history.over_before(tx, before, after, _RESERVATIONS)
            deleted = [
                history.delete(tx, ReservationId(found), before=before, compared=lambda account: _compared(tx, account))
                for _, found in places
            ]
            return (places[-1], sum(deleted)) if places else None

        return await self._db.write(write)


def _compared(tx: Tx, account: AccountKey) -> datetime | None:
    reading = reading_of(tx, *account)
    return None if reading is None else moment(reading.at)
