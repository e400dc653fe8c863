"""Stopping and starting machines that are rented already, and reading their logs.

Whether a machine may run is a fact of its lease (`stop_at`), committed before the marketplace is told, and the
reconciler holds to it: whatever runs past it is stopped again. So a stop holds over a crash, and a start counts only
once it was accepted; one that was refused, queued or not answered is taken back. Meters follow what the listings show.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import structlog

from gpuproxy.instances.requests import Instances, LeaseView
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import (
    FailedPrecondition,
    NoCapacity,
    NotSupported,
    OutcomeUnknown,
    ProviderError,
    ProviderUnavailable,
    RateLimited,
    Refusal,
    Unavailable,
)
from gpuproxy.model.leases import RENTED, InstanceId, Lease, LeaseId, LeaseState, status_word
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reconcile.effects import STOP_AGAIN
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import leases

log = structlog.get_logger(__name__)

_UNSAID_WAIT = 5.0
_LOOKS = 30
_UNDER_WAY = timedelta(seconds=180)
"""For so long a start may be without an answer before it is taken back: longer than any call."""
T = TypeVar("T")


class Machines:
    """Acts on one machine at a time, for the caller whose books have it."""

    def __init__(
        self,
        instances: Instances,
        accounts: Accounts,
        watches: Watches,
        *,
        db: Database,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._instances = instances
        self._accounts = accounts
        self._watches = watches
        self._db = db
        self._clock = clock
        self._limits = limits
        self._locks: WeakValueDictionary[LeaseId, asyncio.Lock] = WeakValueDictionary()
        self._changes = Background("instance")
        self._looks = Background("look")

    async def stop(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """Give its GPUs up and keep its disk, which is billed on; also ends a start that is under way."""
        found = await self._found(caller, provider, instance_id)
        if found.lease.ready_at is None:  # stopped now, it would count as one that never gets ready
            raise _wrong_state(found, "is being started; stop it once it is active")
        market = self._able(found, "stop_start")
        await self._alone(found.lease, lambda: self._stop(market, found.lease))
        return await self._looked_at(caller, found)

    async def start(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """Take GPUs of its host for it again; its whole price is billed from then on."""
        found = await self._found(caller, provider, instance_id)
        market = self._able(found, "stop_start")
        await self._alone(found.lease, lambda: self._start(market, found.lease))
        return await self._looked_at(caller, found)

    async def logs(self, caller: Caller, provider: str, instance_id: str, lines: int) -> Sequence[str]:
        """The last lines of what it printed, oldest first."""
        found = await self._found(caller, provider, instance_id)
        market = self._able(found, "logs")
        return await _asked(market.logs(_contract(found.lease), lines), f"The log of {instance_id}")

    async def drain(self, seconds: float) -> None:
        """Wait for stops and starts under way, at most so many real seconds; a look at one that is done is cut off."""
        await self._looks.close()
        await self._changes.drain(seconds)

    async def _found(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        found = await self._instances.by_contract(caller, provider, instance_id)
        if found.lease.state not in RENTED:
            raise _wrong_state(found, f"is {status_word(found.lease.state)}")
        return found

    def _able(self, found: LeaseView, what: str) -> Provider:
        market = self._accounts.provider_of(found.lease)
        if (why := market.capabilities.missing.get(what)) is not None:
            raise FailedPrecondition(f"{market.name} can't do {what}: {why}.", reason=NotSupported.reason)
        return market

    async def _alone(self, lease: Lease, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """One change of a machine at a time, and to its end whatever becomes of its caller."""
        lock = self._locks.setdefault(lease.id, asyncio.Lock())

        async def run() -> None:
            async with lock:
                await work()

        await asyncio.shield(self._changes.start(run(), lease.id))
        self._looks.start(self._follow(lease), lease.id)

    async def _follow(self, lease: Lease) -> None:
        """Look at the account more often until the change shows; it does within a minute, or needs no hurry."""
        watch, before = self._watches.of(lease), lease.state
        for _ in range(_LOOKS):
            await self._clock.sleep(self._limits.poll_seconds)
            await watch.look()
            if (await self._db.read(lambda tx: leases.get(tx, lease.id))).state is not before:
                return

    async def _stop(self, market: Provider, lease: Lease) -> None:
        await self._db.write(lambda tx: _stop_from(tx, lease.id, tx.now() + STOP_AGAIN))
        await _asked(market.stop(_contract(lease)), f"Stopping {lease.instance_id}")

    async def _start(self, market: Provider, lease: Lease) -> None:
        if not await self._db.write(lambda tx: _begin(tx, lease.id)):
            return
        try:
            await market.start(_contract(lease))
        except NoCapacity:
            raise await self._taken_back(market, lease) from None
        except ProviderError as error:
            await self._taken_back(market, lease)
            raise _refusal(error, f"Starting {lease.instance_id}") from error
        await write_until_committed(self._db, self._clock, lambda tx: _stop_from(tx, lease.id, None), lease.id)

    async def _taken_back(self, market: Provider, lease: Lease) -> Refusal:
        """A start that waits for GPUs could begin, and cost, at any hour; the reconciler goes on where this fails."""
        await write_until_committed(
            self._db, self._clock, lambda tx: _stop_from(tx, lease.id, tx.now() + STOP_AGAIN), lease.id
        )
        try:
            await market.stop(_contract(lease))
        except ProviderError as error:
            log.info("start_cancel_failed", lease=lease.id, reason=error.reason, error=str(error))
        return FailedPrecondition(
            f"The GPUs of {lease.instance_id} are rented by somebody else now. It stays stopped.",
            reason=NoCapacity.reason,
        )

    async def _looked_at(self, caller: Caller, found: LeaseView) -> LeaseView:
        """As the books have it after one look at the account, if that does not take long."""
        lease = found.lease
        try:
            async with self._clock.timeout(self._limits.look_seconds):
                await self._watches.of(lease).look()
        except (TimeoutError, Unavailable):
            self._watches.of(lease).nudge()
        return await self._instances.by_contract(caller, lease.provider, _contract(lease))


def _begin(tx: Tx, lease_id: LeaseId) -> bool:
    """Until the start is accepted the machine is one that is to be stopped; False: it runs, or may, already."""
    lease = leases.get(tx, lease_id)
    if lease.state not in RENTED or (lease.state is not LeaseState.PARKED and lease.stop_at is None):
        return False
    tx.before_spending()
    leases.note(tx, lease, stop_at=tx.now() + _UNDER_WAY)
    return True


def _stop_from(tx: Tx, lease_id: LeaseId, at: datetime | None) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state in RENTED:
        leases.note(tx, lease, stop_at=at)


async def _asked(call: Awaitable[T], what: str) -> T:
    """The answer, or the refusal that a provider's error is for a client."""
    try:
        return await call
    except ProviderError as error:
        log.info("instance_call_failed", what=what, reason=error.reason, error=str(error))
        raise _refusal(error, what) from error


def _refusal(error: ProviderError, what: str) -> Refusal:
    if isinstance(error, RateLimited):
        wait = error.retry_after or _UNSAID_WAIT
        return Unavailable(f"{what}: the marketplace wants fewer calls.", reason=error.reason, retry_after=wait)
    if isinstance(error, OutcomeUnknown | ProviderUnavailable):
        return Unavailable(f"{what}: the marketplace did not answer; the call may be repeated.", reason=error.reason)
    return FailedPrecondition(f"{what}: the marketplace refuses it.", reason=error.reason)


def _contract(lease: Lease) -> InstanceId:
    return InstanceId(lease.instance_id or "")


def _wrong_state(found: LeaseView, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Instance {found.lease.instance_id} {what}.",
        reason="WRONG_STATE",
        metadata={"status": status_word(found.lease.state)},
    )
