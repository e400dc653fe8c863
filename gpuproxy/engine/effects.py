"""What a pass does outside: destroy, stop, ask again, knock, take back.

Each records what it learnt as a unit of work of its own. One task for each lease and kind at a time. What fails is left
to the next pass: nothing here retries.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import structlog

from gpuproxy.engine import record
from gpuproxy.engine.limits import Limits
from gpuproxy.engine.steps import NEVER_READY, Confirm, Destroy, Knock, Stop
from gpuproxy.engine.sweep import Stray
from gpuproxy.model.errors import ProviderError, RateLimited, Unavailable
from gpuproxy.model.leases import RENTED, Lease, LeaseEvent, LeaseId, LeaseState
from gpuproxy.ports import Clock, Database, Probe, Provider, Tx
from gpuproxy.store import leases

log = structlog.get_logger(__name__)

STOP_AGAIN = timedelta(seconds=15)
"""Before a stop is repeated that does not show."""
Effect = Destroy | Stop | Confirm | Knock


class Effects:
    """The outside effects of one account. `changed` is called when the next pass should come soon."""

    def __init__(
        self,
        provider: Provider,
        db: Database,
        *,
        clock: Clock,
        probe: Probe,
        limits: Limits,
        changed: Callable[[], None],
    ) -> None:
        self._provider = provider
        self._db = db
        self._clock = clock
        self._probe = probe
        self._limits = limits
        self._changed = changed
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    def start(self, effect: Effect) -> None:
        """Perform a step, unless the same is under way."""
        self._spawn(type(effect).__name__, effect.lease.id, lambda: self._perform(effect))

    def take_back(self, stray: Stray) -> None:
        """Prove that a machine is alive, and put it into the books as one to be given back."""
        self._spawn("Stray", stray.instance.id, lambda: self._take_back(stray))

    async def done(self) -> None:
        """Return when nothing is under way."""
        while self._running:
            await asyncio.wait(self._running.values())

    async def close(self) -> None:
        """End what is under way; the books know what is left to do."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, kind: str, subject: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        key = (kind, subject)
        if key not in self._running:
            task = asyncio.create_task(work())
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        del self._running[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("effect_failed", effect=key[0], subject=key[1], exc_info=error)

    async def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Destroy):
            await self._destroy(effect.lease)
        elif isinstance(effect, Stop):
            await self._stop(effect.lease)
        elif isinstance(effect, Confirm):
            await self._confirm(effect.lease)
        else:
            await self._knock(effect)

    async def _knock(self, knock: Knock) -> None:
        if await self._probe.reachable(knock.kind, knock.host, knock.port, self._limits.probe_timeout):
            await self._write(lambda tx: _ready(tx, knock.lease.id))
        elif knock.last:
            await self._write(lambda tx: _not_ready(tx, knock.lease.id))
            self._changed()

    async def _confirm(self, lease: Lease) -> None:
        if lease.instance_id is None:
            return
        try:
            found = await self._provider.get(lease.instance_id)
        except ProviderError:
            return  # no opinion; the next pass asks again
        if found is not None:
            await self._write(lambda tx: _still_there(tx, lease.id))
        else:
            await self._write(lambda tx: _not_there(tx, lease.id, lease.state))

    async def _destroy(self, lease: Lease) -> None:
        if lease.instance_id is None:
            return
        wait = min(self._limits.destroy_again * 2 ** min(lease.destroy_tries, 10), self._limits.destroy_again_max)
        try:
            await self._provider.destroy(lease.instance_id)
        except RateLimited as error:
            wait = error.retry_after or self._limits.poll_seconds
        except ProviderError as error:
            log.info("destroy_not_accepted", lease=lease.id, reason=error.reason, error=str(error))
            wait = min(wait, self._limits.destroy_again)
        await self._write(lambda tx: _destroy_sent(tx, lease.id, lease.destroy_tries + 1, wait))
        self._changed()

    async def _stop(self, lease: Lease) -> None:
        """Unless a start has been asked for since."""
        if lease.instance_id is None or not await self._write(lambda tx: _is_to_stop(tx, lease.id)):
            return
        log.info("stopped_again", lease=lease.id, instance=lease.instance_id)
        try:
            await self._provider.stop(lease.instance_id)
        except ProviderError as error:
            log.info("stop_not_accepted", lease=lease.id, reason=error.reason, error=str(error))
        self._changed()

    async def _take_back(self, stray: Stray) -> None:
        try:
            alive = await self._provider.get(stray.instance.id)
        except ProviderError:
            return
        if alive is None or alive.label != stray.instance.label:
            return
        account = (self._provider.name, self._provider.account)
        lease = await self._write(lambda tx: record.take_back(tx, stray, account))
        if lease is not None:
            log.info("stray_machine", kind=stray.kind, instance=stray.instance.id, lease=lease.id)
            self._changed()  # else it is being given back already, and another look at once would find the same

    async def _write(self, unit: Callable[[Tx], Any]) -> Any:
        try:
            return await self._db.write(unit)
        except Unavailable as error:
            log.warning("books_unavailable", account=self._provider.account, error=str(error.__cause__))
            return None


def _ready(tx: Tx, lease_id: LeaseId) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state is LeaseState.STARTING:
        leases.advance(tx, lease, LeaseEvent.READY, ready_at=lease.ready_at or tx.now(), faltered_at=None)


def _not_ready(tx: Tx, lease_id: LeaseId) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state is LeaseState.STARTING:
        words = ": ".join(part for part in (NEVER_READY, lease.status_message) if part)
        record.release(tx, leases.note(tx, lease, status_message=words), "NOT_READY")


def _not_there(tx: Tx, lease_id: LeaseId, was: LeaseState) -> None:
    """Absent from a listing and from a read of its own: gone, or taken away, unless the lease moved on meanwhile."""
    lease = leases.get(tx, lease_id)
    if lease.state is was:
        leases.advance(tx, lease, LeaseEvent.GONE if was is LeaseState.RELEASING else LeaseEvent.VANISHED)


def _still_there(tx: Tx, lease_id: LeaseId) -> None:
    leases.note(tx, leases.get(tx, lease_id), missing_since=None)


def _is_to_stop(tx: Tx, lease_id: LeaseId) -> bool:
    """True when a stop is due now; the next one is not for a while."""
    lease, now = leases.get(tx, lease_id), tx.now()
    if lease.state not in RENTED or lease.stop_at is None or lease.stop_at > now:
        return False
    leases.note(tx, lease, stop_at=now + STOP_AGAIN)
    return True


def _destroy_sent(tx: Tx, lease_id: LeaseId, tries: int, wait: float) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state is LeaseState.RELEASING:
        leases.note(tx, lease, destroy_tries=tries, destroy_at=tx.now() + timedelta(seconds=wait))
