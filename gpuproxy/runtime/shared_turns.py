"""Turns at the endpoints of an account that several processes call: one row an endpoint says when the next one begins.

A process first keeps its own pace, and then takes a turn from the row, so that all together never call more often than
one process would. Endpoints that only the supervisor of the account calls don't need this.
"""

import json
from datetime import timedelta

from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.runtime.background import Background
from gpuproxy.store import shared
from gpuproxy.store.rows import micros, moment

_SECOND = 1_000_000


class SharedTurns:
    """The turns of one account."""

    def __init__(self, db: Database, clock: Clock, account: AccountKey) -> None:
        self._db = db
        self._clock = clock
        self._account = account
        self._holds = Background("pace")

    async def turn(self, endpoint: str, calls: int, seconds: float) -> None:
        """Return when the next call may be sent: at most `calls` calls in any `seconds`. Raises Unavailable."""
        if seconds > 0:
            wait = await self._db.write(lambda tx: self._taken(tx, endpoint, calls, seconds))
            if wait > 0:
                await self._clock.sleep(wait)

    def hold(self, endpoint: str, seconds: float) -> None:
        """Let no process begin a turn for `seconds` seconds, because the provider asked for a pause."""
        if seconds > 0:
            self._holds.start(self._db.write(lambda tx: self._held(tx, endpoint, seconds)), endpoint)

    def _taken(self, tx: Tx, endpoint: str, calls: int, seconds: float) -> float:
        now, (begun, not_before) = micros(tx.now()), self._read(tx, endpoint)
        begins = max(now, not_before)
        if len(begun) >= calls:
            begins = max(begins, begun[-calls] + round(seconds * _SECOND))
        self._write(tx, endpoint, [*begun, begins][-calls:], not_before)
        return (begins - now) / _SECOND

    def _held(self, tx: Tx, endpoint: str, seconds: float) -> None:
        begun, not_before = self._read(tx, endpoint)
        self._write(tx, endpoint, begun, max(not_before, micros(tx.now() + timedelta(seconds=seconds))))

    def _read(self, tx: Tx, endpoint: str) -> tuple[list[int], int]:
        found = shared.told(tx, self._name(endpoint))
        if found is None:
            return [], 0
        head = json.loads(found.head)
        return head["begun"], head["not_before"]

    def _write(self, tx: Tx, endpoint: str, begun: list[int], not_before: int) -> None:
        shared.tell(tx, self._name(endpoint), json.dumps({"begun": begun, "not_before": not_before}))

    def _name(self, endpoint: str) -> str:
        return f"pace:{self._account[0]}:{self._account[1]}:{endpoint}"


def next_turn(tx: Tx, account: AccountKey, endpoint: str) -> float:
    """The seconds until a turn could begin; 0 if the endpoint is not held."""
    found = shared.told(tx, f"pace:{account[0]}:{account[1]}:{endpoint}")
    not_before = 0 if found is None else json.loads(found.head)["not_before"]
    return max(0.0, (moment(not_before) - tx.now()).total_seconds())
