"""Sending what waits in the outbox: one loop for each target, so that one that hangs delays no other.

A try is committed before it is sent, under the claim on the target, and its result after it. If the process dies in
between, the event is sent again with the same id. The events of a target are sent in order, so one that fails delays
those behind it until it is taken, or too old.
"""

from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import structlog

from gpuproxy.model.errors import ClaimLost
from gpuproxy.model.webhooks import GIVEN_UP_AFTER, Delivery, Target
from gpuproxy.ports import Clock, Database, Http, Tx
from gpuproxy.runtime import backoff
from gpuproxy.runtime.claims import HeldClaim
from gpuproxy.runtime.loops import repeat_when_due
from gpuproxy.store import outbox
from gpuproxy.webhooks.posting import Answer, post

log = structlog.get_logger(__name__)

FIRST_WAIT, LONGEST_WAIT = 5.0, 3600.0
"""Seconds after the first failure, and the most after any; the wait doubles."""
KEPT = timedelta(days=7)
"""How long deliveries are kept in the log."""
_AT_REST = 3600.0
_ELSEWHERE = 4.0
"""Seconds until this process asks again for a target that another process serves."""


Result = Literal["delivered", "failed", "gave_up"]
"""A try was taken by the target, or it failed and is repeated later; or an event is sent no more."""
Date = Callable[[], datetime]
"""The real time, which receivers compare with their own. The server's clock may run faster (GPUPROXY_TIME_SCALE)."""
Count = Callable[[str, Result, int], None]
"""Counts what came of events of a target."""


class Sender:
    """Sends the events of one target."""

    def __init__(
        self,
        target: Target,
        claim: HeldClaim,
        *,
        db: Database,
        http: Http,
        clock: Clock,
        date: Date | None = None,
        count: Count = lambda _target, _result, _events: None,
    ) -> None:
        """`claim`: on the target. Only the process that has it sends. `date`: for signatures; None: the clock's."""
        self.claim = claim
        self._target = target
        self._db = db
        self._http = http
        self._clock = clock
        self._date = date or clock.now
        self._count = count
        self._failing = False
        """The last try failed, and the log says so already."""

    async def run(self) -> None:
        """Send for ever."""
        await repeat_when_due(self.step, outbox.TOPIC, self._db, self._clock, f"webhook {self._target.name}")

    async def step(self) -> float:
        """Send all that is due. Returns the seconds until something is due again."""
        while not isinstance(due := await self._db.write(self._next), float):
            answer = await post(self._http, self._target, due, self._date())
            self._log(due, answer)
            await self._db.write(partial(self._record, due, answer))
        return due

    def _next(self, tx: Tx) -> Delivery | float:
        """The event to be sent now, with its try counted; or the seconds until there may be one."""
        if not self._may_send(tx):
            return _ELSEWHERE
        now, given_up = tx.now(), 0
        event = outbox.head(tx, self._target.name)
        while event is not None and now - event.at >= GIVEN_UP_AFTER:
            outbox.give_up(tx, event)
            given_up += 1
            event = outbox.head(tx, self._target.name)
        if given_up:
            tx.after_commit(partial(self._gave_up, given_up))
        outbox.prune(tx, now - KEPT)
        if event is None:
            return _AT_REST
        if event.next_at is not None and event.next_at > now:
            return (event.next_at - now).total_seconds()
        return outbox.trying(tx, event, self._again_at(now, event, event.tries + 1))

    def _may_send(self, tx: Tx) -> bool:
        if self._db.exclusive:
            return self.claim.take(tx)
        try:
            self.claim.require(tx)
        except ClaimLost:
            return False
        return True

    def _record(self, event: Delivery, answer: Answer, tx: Tx) -> None:
        if not answer.error:
            outbox.delivered(tx, event, answer.status)
            return
        later = max(self._again_at(tx.now(), event, event.tries), tx.now() + timedelta(seconds=answer.retry_after))
        outbox.failed(tx, event, answer.status, answer.error, later)

    def _again_at(self, now: datetime, event: Delivery, failures: int) -> datetime:
        seed = f"{self.claim.name}/{event.event_id}"
        return now + timedelta(seconds=backoff.wait(seed, failures, first=FIRST_WAIT, most=LONGEST_WAIT))

    def _gave_up(self, events: int) -> None:
        log.warning("webhook_gave_up", target=self._target.name, events=events, why="too old")
        self._count(self._target.name, "gave_up", events)

    def _log(self, event: Delivery, answer: Answer) -> None:
        """Log the first of several failures, and their end. Count all."""
        self._count(self._target.name, "failed" if answer.error else "delivered", 1)
        about = {"target": self._target.name, "id": event.event_id, "type": event.type.value}
        if answer.error and not self._failing:
            log.warning("webhook_failed", **about, status=answer.status, error=answer.error)
        elif not answer.error:
            log.info("webhook_delivered", **about, status=answer.status, tries=event.tries)
        self._failing = bool(answer.error)


class Webhooks:
    """All targets of this deployment. Without any, nothing is written and nothing is sent."""

    def __init__(self, targets: Sequence[Target], senders: Sequence[Sender]) -> None:
        self._targets = targets
        self.senders = senders

    def start(self, tx: Tx) -> None:
        """Make the targets those of the database, in the first unit of work of this process."""
        outbox.use_targets(tx, self._targets)

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """The work that goes on as long as the server runs."""
        return tuple(sender.run() for sender in self.senders)
