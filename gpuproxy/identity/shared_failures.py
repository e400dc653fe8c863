"""Failed logins that several servers count together, so that more servers allow no more guesses.

Each attempt makes one unit of work, whatever comes of it, so that its time tells nothing.
"""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.store import shared
from gpuproxy.store.rows import micros, moment

_PREFIX = "login:"
_PRUNED_EVERY = 60.0
Outcome = Literal["good", "bad", "locked"]


class SharedFailures:
    """The failures of all servers, by email address and client network."""

    def __init__(self, db: Database, clock: Clock, *, expires_after: float, delay: Callable[[int], float]) -> None:
        """`expires_after`: when failures are forgotten. `delay`: of the next attempt after so many; real seconds."""
        self._db = db
        self._clock = clock
        self._expires_after = expires_after
        self._delay = delay
        self._pruned_at: float | None = None

    async def is_locked(self, email: str, network: str) -> bool:
        """Whether an attempt must be refused, whatever the password is."""
        name = _name(email, network)
        row, now = await self._db.read(lambda tx: (shared.told(tx, name), tx.now()))
        return row is not None and now < moment(json.loads(row.head)["locked_until"])

    async def note(self, email: str, network: str, outcome: Outcome) -> None:
        """Count a failure, or forget the earlier ones after a success."""
        name, prunes = _name(email, network), self._prunes()

        def write(tx: Tx) -> None:
            before = shared.told(tx, name)
            if prunes:
                shared.forget_older(tx, _PREFIX, tx.now() - self._span(self._expires_after))
            if outcome == "good":
                shared.forget(tx, name)
            elif outcome == "bad":
                fresh = before is not None and tx.now() - before.at < self._span(self._expires_after)
                failures = 1 + (json.loads(before.head)["failures"] if before is not None and fresh else 0)
                until = tx.now() + self._span(self._delay(failures))
                shared.tell(tx, name, json.dumps({"failures": failures, "locked_until": micros(until)}))

        await self._db.write(write)

    def _prunes(self) -> bool:
        now = self._clock.monotonic() / self._clock.scale
        if self._pruned_at is not None and now - self._pruned_at < _PRUNED_EVERY:
            return False
        self._pruned_at = now
        return True

    def _span(self, real_seconds: float) -> timedelta:
        return timedelta(seconds=real_seconds * self._clock.scale)


def _name(email: str, network: str) -> str:
    return _PREFIX + hashlib.sha256(f"{email}\0{network}".encode(errors="surrogatepass")).hexdigest()
