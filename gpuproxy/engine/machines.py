"""Stopping, starting and listening to machines that are rented already.

No intent is written before these calls: nothing new can come into being by them, the lease keeps its machine, and the
next listing says what became of it; meters follow that listing. A call whose answer is lost may be made again.
"""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

import structlog

from gpuproxy.engine.accounts import Accounts
from gpuproxy.engine.books import Books, LeaseView
from gpuproxy.engine.limits import Limits
from gpuproxy.engine.observe import AccountWatch
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
from gpuproxy.model.leases import RENTED, InstanceId, LeaseState, status_word
from gpuproxy.ports import Clock, Provider

log = structlog.get_logger(__name__)

_UNSAID_WAIT = 5.0
T = TypeVar("T")


class Machines:
    """Acts on one machine at a time, for the caller whose books have it."""

    def __init__(
        self, books: Books, accounts: Accounts, watches: Sequence[AccountWatch], *, clock: Clock, limits: Limits
    ) -> None:
        self._books = books
        self._accounts = accounts
        self._watches = {(watch.provider.name, watch.provider.account): watch for watch in watches}
        self._clock = clock
        self._limits = limits

    async def stop(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """Give its GPUs up and keep its disk, which is billed on; what is stopped already stays so."""
        found = await self._found(caller, provider, instance_id)
        if found.lease.state is LeaseState.PARKED:
            return found
        if found.lease.ready_at is None:  # stopped now, it would count as one that never gets ready
            raise _wrong_state(found, "is being started; stop it once it is active")
        market = self._able(found, "stop_start")
        await _asked(market.stop(_contract(found)), f"Stopping {instance_id}")
        return await self._looked_at(caller, found)

    async def start(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        """Take GPUs of its host for it again; its whole price is billed from then on."""
        found = await self._found(caller, provider, instance_id)
        if found.lease.state is not LeaseState.PARKED:
            return found
        market = self._able(found, "stop_start")
        try:
            await _asked(market.start(_contract(found)), f"Starting {instance_id}")
        except _Taken:
            raise await self._not_queued(market, found) from None
        return await self._looked_at(caller, found)

    async def logs(self, caller: Caller, provider: str, instance_id: str, lines: int) -> Sequence[str]:
        """The last lines of what it printed, oldest first."""
        found = await self._found(caller, provider, instance_id)
        market = self._able(found, "logs")
        return await _asked(market.logs(_contract(found), lines), f"The log of {instance_id}")

    async def _found(self, caller: Caller, provider: str, instance_id: str) -> LeaseView:
        found = await self._books.instance(caller, provider, instance_id)
        if found.lease.state not in RENTED:
            raise _wrong_state(found, f"is {status_word(found.lease.state)}")
        return found

    def _able(self, found: LeaseView, what: str) -> Provider:
        market = self._accounts.holding(found.lease)
        if (why := market.capabilities.missing.get(what)) is not None:
            raise FailedPrecondition(f"{market.name} can't do {what}: {why}.", reason=NotSupported.reason)
        return market

    async def _not_queued(self, market: Provider, found: LeaseView) -> Refusal:
        """A start that waits for GPUs could begin, and cost, at any hour: take it back."""
        told = "It stays stopped"
        try:
            await market.stop(_contract(found))
        except ProviderError as error:
            log.warning("start_stays_queued", lease=found.lease.id, reason=error.reason, error=str(error))
            told = "The marketplace keeps the start queued, and it may begin by itself; stop it to be sure"
        return FailedPrecondition(
            f"The GPUs of {found.lease.instance_id} are rented by somebody else now. {told}.", reason=NoCapacity.reason
        )

    async def _looked_at(self, caller: Caller, found: LeaseView) -> LeaseView:
        """As the books have it after one look at the account, if that does not take long."""
        lease = found.lease
        try:
            async with self._clock.timeout(self._limits.look_seconds):
                await self._watches[lease.provider, lease.account].look()
        except (TimeoutError, Unavailable):
            self._watches[lease.provider, lease.account].nudge()
        return await self._books.instance(caller, lease.provider, _contract(found))


class _Taken(Exception):
    """The machine's GPUs are somebody else's."""


async def _asked(call: Awaitable[T], what: str) -> T:
    """The answer, or the refusal that a provider's error is for a client."""
    try:
        return await call
    except NoCapacity as error:
        raise _Taken from error
    except RateLimited as error:
        wait, text = error.retry_after or _UNSAID_WAIT, f"{what}: the marketplace wants fewer calls."
        raise Unavailable(text, reason=error.reason, retry_after=wait) from error
    except ProviderError as error:
        log.info("machine_call_failed", what=what, reason=error.reason, error=str(error))
        if isinstance(error, OutcomeUnknown | ProviderUnavailable):
            text = f"{what}: the marketplace did not answer; the call may be repeated."
            raise Unavailable(text, reason=error.reason) from error
        raise FailedPrecondition(f"{what}: the marketplace refuses it.", reason=error.reason) from error


def _contract(found: LeaseView) -> InstanceId:
    return InstanceId(found.lease.instance_id or "")


def _wrong_state(found: LeaseView, what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"Instance {found.lease.instance_id} {what}.",
        reason="WRONG_STATE",
        metadata={"status": status_word(found.lease.state)},
    )
