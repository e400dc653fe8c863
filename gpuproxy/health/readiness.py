"""The readiness of the server: it can write its database, reconcile, and reach at least one account."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.runtime.limits import Limits
from gpuproxy.store import meta

OK = "ok"
_PASSES = 3
"""A reconcile that is older than this number of intervals is not recent."""
_LEAST = timedelta(minutes=1)
_ANSWER_WITHIN = 8.0
"""Real seconds in which the database must have written. Most programs that ask wait for ten seconds."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The checks of readiness. They run when they are called."""

    db: Database
    watches: Watches
    clock: Clock
    limits: Limits
    lateness: Lateness

    async def checks(self) -> Mapping[str, str]:
        """By the name of the check: `ok`, or a short description of the problem."""
        return {"database": await self._database(), "reconcile": self._reconcile(), "accounts": self._accounts()}

    def last_pass_at(self) -> datetime | None:
        """The time of the last reconcile of the account whose last one is the oldest. None if one has had none."""
        passes = [watch.last_pass_at for watch in self.watches]
        return min((at for at in passes if at is not None), default=None) if None not in passes else None

    async def _database(self) -> str:
        def write(tx: Tx) -> bool:
            meta.write(tx, meta.WRITTEN, tx.now().isoformat())
            return tx.lasting()

        try:
            async with self.clock.timeout(_ANSWER_WITHIN * self.clock.scale):
                lasting = await self.db.write(write)
        except TimeoutError:
            log.warning("database_silent", seconds=_ANSWER_WITHIN)
            return "does not answer"
        except Exception:
            log.exception("database_write_failed")
            return "can't be written"
        return OK if lasting else "its file was removed or replaced"

    def _reconcile(self) -> str:
        last = self.last_pass_at()
        if last is None:
            return "has not run yet"
        age = self.clock.now() - last
        allowed = max(_LEAST, timedelta(seconds=_PASSES * self.limits.reconcile_seconds))
        # A server that did not run is behind with its passes; it catches up by itself.
        late = timedelta(seconds=self.lateness.within(age.total_seconds()))
        return OK if age - late <= allowed else f"ran {age.total_seconds():.0f} s ago"

    def _accounts(self) -> str:
        healthy = [watch for watch in self.watches if watch.last_pass_at is not None and watch.silent_since is None]
        if healthy or not self.watches:
            return OK if healthy else "none is configured"
        return ", ".join(f"{watch.provider.name} {watch.provider.account} does not answer" for watch in self.watches)
