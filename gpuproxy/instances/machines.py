"""Stopping and starting rented machines, and reading their logs.

A lease records whether its machine may run (`stop_at`). This is committed before the marketplace is called, and the
reconciler enforces it: a machine that runs past `stop_at` is stopped again. So a stop survives a crash. A start is
recorded only after it was accepted, and only if nothing else has changed `stop_at` meanwhile: another server may have
stopped the machine. A start that was refused, queued or not answered is cancelled. Meters follow what the listings
show.
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
from gpuproxy.model.lease_facts import StopDue
from gpuproxy.model.leases import RENTED, InstanceId, Lease, LeaseId, LeaseState, status_word
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import spending
from gpuproxy.outcomes.pool_owned import require_direct
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reconcile.effects import STOP_AGAIN
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime import fencing
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.background import Background
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import audit, leases

log = structlog.get_logger(__name__)

_DEFAULT_WAIT = 5.0
_LOOKS = 30
_UNDER_WAY = timedelta(seconds=180)
"""How long a start may be unanswered before the machine is stopped again: longer than any call."""
_SEND_WITHIN = 60.0
"""A start that could not be sent in so many seconds after its commit is not sent: it may have been stopped since."""
T = TypeVar("T")


class Machines:
    """Stops and starts the machines of a caller's project, one change of a machine at a time."""

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
        """Stop a machine. It loses its GPUs and keeps its disk, which is still billed. Also cancels a pending start."""
        found = await self._found(caller, provider, instance_id)
        await self._db.read(lambda tx: require_direct(tx, found.lease, "stop"))
        if found.lease.observed.ready_at is None:  # a stop now would look like a machine that never gets ready
            raise _wrong_state(found, "is being started; stop it once it is active")
        market = self._able(found, "stop_start")
        await self._alone(found.lease, lambda: self._stop(market, found.lease, caller))
        return await self._looked_at(caller, found)

    async def start(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """Start a stopped machine with GPUs of its host. Its whole price is billed from then on."""
        found = await self._found(caller, provider, instance_id)
        await self._db.read(lambda tx: require_direct(tx, found.lease, "start"))
        market = self._able(found, "stop_start")
        _require_time_left(found.lease, self._clock.now())
        ends_at = found.lease.observed.contract_ends_at
        if ends_at is not None and ends_at <= self._clock.now():
            raise FailedPrecondition(
                f"The marketplace's contract of {instance_id} ended at {ends_at:%Y-%m-%d %H:%MZ}. The machine can't be "
                "started again. Release it and rent another one.",
                reason=Reason.CONTRACT_ENDED,
            )
        await self._alone(found.lease, lambda: self._start(market, found.lease, caller))
        return await self._looked_at(caller, found)

    async def logs(self, caller: Caller, provider: str, instance_id: str, lines: int) -> Sequence[str]:
        """The last lines of the machine's log, oldest first."""
        found = await self._found(caller, provider, instance_id)
        market = self._able(found, "logs")
        return await _asked(market.logs(_contract(found.lease), lines), f"The log of {instance_id}")

    async def drain(self, seconds: float) -> None:
        """Wait for running stops and starts, for at most `seconds` real seconds. Finished ones are not followed."""
        await self._looks.close()
        await self._changes.drain(seconds)

    async def close(self) -> None:
        """Cancel what is still running. A start without an answer is stopped by the reconciler, as after a crash."""
        await self._looks.close()
        await self._changes.close()

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
        """Run one change of a machine at a time. It runs to its end even if its caller leaves."""
        lock = self._locks.setdefault(lease.id, asyncio.Lock())

        async def run() -> None:
            async with lock:
                await work()

        await asyncio.shield(self._changes.start(run(), lease.id))
        self._looks.start(self._follow(lease), lease.id)

    async def _follow(self, lease: Lease) -> None:
        """List the account more often until the change shows, for at most `_LOOKS` listings."""
        watch, before = self._watches.of(lease), lease.state
        for _ in range(_LOOKS):
            await self._clock.sleep(self._limits.poll_seconds)
            await watch.look()
            if (await self._db.read(lambda tx: leases.get(tx, lease.id))).state is not before:
                return

    async def _stop(self, market: Provider, lease: Lease, caller: Caller) -> None:
        await self._db.write(lambda tx: _begin_stop(tx, lease, caller))
        await _asked(market.stop(_contract(lease)), f"Stopping {lease.instance_id}")

    async def _start(self, market: Provider, lease: Lease, caller: Caller) -> None:
        send_until = self._clock.monotonic() + _SEND_WITHIN
        stop_at = await self._db.write(lambda tx: _begin(tx, lease.id, caller, self._limits.hold_ahead))
        if stop_at is None:
            return
        try:
            with fencing.under(lambda: self._clock.monotonic() < send_until):
                await market.start(_contract(lease))
        except NoCapacity:
            raise await self._cancel_start(market, lease) from None
        except ProviderError as error:
            await self._cancel_start(market, lease)
            raise _refusal(error, f"Starting {lease.instance_id}") from error
        if not await write_until_committed(self._db, self._clock, lambda tx: _started(tx, lease.id, stop_at), lease.id):
            raise FailedPrecondition(
                f"{lease.instance_id} was stopped while it was being started. It stays stopped.",
                reason=Reason.WRONG_STATE,
            )

    async def _cancel_start(self, market: Provider, lease: Lease) -> Refusal:
        """Stop the machine, because a queued start could run, and cost, at any time. Returns the refusal.

        If the stop fails, the reconciler repeats it. The whole price is held until the start can't be carried out any
        more.
        """
        await write_until_committed(
            self._db, self._clock, lambda tx: _stop_from(tx, lease.id, tx.now() + STOP_AGAIN), lease.id
        )
        try:
            await market.stop(_contract(lease))
        except ProviderError as error:
            log.info("start_cancel_failed", lease=lease.id, reason=error.reason, error=str(error))
        return FailedPrecondition(
            f"The GPUs of {lease.instance_id} are rented by another customer of the marketplace now. It stays stopped.",
            reason=NoCapacity.reason,
        )

    async def _looked_at(self, caller: Caller, found: LeaseView) -> LeaseView:
        """The lease after one listing of the account, or without it if the listing takes too long."""
        lease = found.lease
        try:
            async with self._clock.timeout(self._limits.look_seconds):
                await self._watches.of(lease).look()
        except (TimeoutError, Unavailable):
            self._watches.of(lease).nudge()
        return await self._instances.by_contract(caller, lease.provider, _contract(lease))


def _begin(tx: Tx, lease_id: LeaseId, caller: Caller, horizon: timedelta) -> datetime | None:
    """Record that a start is about to be sent. None if the machine may already run. Raises BudgetExceeded.

    Until the start is accepted, the machine is still one that is to be stopped, from the returned time on.
    """
    lease = leases.get(tx, lease_id)
    if lease.state not in RENTED or (lease.state is not LeaseState.PARKED and lease.pending.stop_at is None):
        return None
    _require_time_left(lease, tx.now())
    tx.before_spending()
    spending.admit_start(tx, lease, horizon)
    stop_at = tx.now() + _UNDER_WAY
    leases.note(tx, lease, StopDue(stop_at))
    audit.record(tx, caller, "instance_started", _contract(lease), lease.provider, project=lease.project)
    return stop_at


def _started(tx: Tx, lease_id: LeaseId, stop_at: datetime) -> bool:
    """Record that a start was accepted. `stop_at`: as `_begin` recorded it. False if a stop was recorded since."""
    lease = leases.get(tx, lease_id)
    if lease.state not in RENTED or lease.pending.stop_at is None:  # released, or recorded before
        return True
    if lease.pending.stop_at != stop_at:
        return False
    leases.note(tx, lease, StopDue(None))
    return True


def _require_time_left(lease: Lease, now: datetime) -> None:
    if lease.expires_at is not None and lease.expires_at <= now:
        raise FailedPrecondition(
            f"The lease of {lease.instance_id} ended at {lease.expires_at:%Y-%m-%d %H:%MZ}, and the machine is kept "
            f"stopped. Extend reservation {lease.reservation_id} first.",
            reason=Reason.RESERVATION_OVER,
        )


def _begin_stop(tx: Tx, lease: Lease, caller: Caller) -> None:
    """Record that the machine is to be stopped. A warm pool may have taken it up since the call began."""
    require_direct(tx, lease, "stop")
    _stop_from(tx, lease.id, tx.now() + STOP_AGAIN)
    audit.record(tx, caller, "instance_stopped", _contract(lease), lease.provider, project=lease.project)


def _stop_from(tx: Tx, lease_id: LeaseId, at: datetime) -> None:
    lease = leases.get(tx, lease_id)
    if lease.state in RENTED:
        leases.note(tx, lease, StopDue(at))


async def _asked(call: Awaitable[T], what: str) -> T:
    """The answer of a provider call. Its errors are raised as refusals for the client."""
    try:
        return await call
    except ProviderError as error:
        log.info("instance_call_failed", what=what, reason=error.reason, error=str(error))
        raise _refusal(error, what) from error


def _refusal(error: ProviderError, what: str) -> Refusal:
    if isinstance(error, RateLimited):
        wait = error.retry_after or _DEFAULT_WAIT
        return Unavailable(f"{what}: the marketplace wants fewer calls.", reason=error.reason, retry_after=wait)
    if isinstance(error, OutcomeUnknown | ProviderUnavailable):
        return Unavailable(f"{what}: the marketplace did not answer; the call may be repeated.", reason=error.reason)
    return FailedPrecondition(f"{what}: the marketplace refuses it.", reason=error.reason)


def _contract(lease: Lease) -> InstanceId:
    return InstanceId(lease.instance_id or "")


def _wrong_state(found: LeaseView, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Instance {found.lease.instance_id} {what}.",
        reason=Reason.WRONG_STATE,
        metadata={"status": status_word(found.lease.state)},
    )
