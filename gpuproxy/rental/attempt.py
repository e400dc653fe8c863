"""One lease's create: wait for its turn, commit that the call starts, send it once, record what came of it.

A create that the marketplace surely did not look at, because it wants fewer calls, waits for another turn: that is a
wait of the reservation and no failure. A call in flight is never cancelled, whatever becomes of its caller. What was
learnt is written down however long the database takes to come back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.loadbalancer.learnt import Learnt
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import OutcomeUnknown, RateLimited, Refused, Scope
from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import Offer
from gpuproxy.outcomes import record
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.persist import surely
from gpuproxy.runtime.turns import FairTurns

T = TypeVar("T")

_UNSAID_PENALTY = 5.0
_LOOK_AGAIN = 2.0


class Attempts:
    """Makes them, with what all of them work with."""

    def __init__(self, accounts: Accounts, watches: Watches, catalog: Catalog, *, db: Database, clock: Clock) -> None:
        self._accounts = accounts
        self._watches = watches
        self._catalog = catalog
        self._db = db
        self._clock = clock

    def of(self, lease: Lease, offer: Offer, spec: LaunchSpec, latest: datetime) -> "Attempt":
        """The attempt to rent `offer` for `lease`; its create may not be sent after `latest`."""
        return Attempt(
            lease,
            offer,
            spec,
            provider=self._accounts.holding(lease),
            turns=self._accounts.creates((lease.provider, lease.account)),
            latest=latest,
            listed_since=self._watches.of(lease).listed_since,
            catalog=self._catalog,
            db=self._db,
            clock=self._clock,
        )


class Attempt:
    """The create of one lease."""

    def __init__(
        self,
        lease: Lease,
        offer: Offer,
        spec: LaunchSpec,
        *,
        provider: Provider,
        turns: FairTurns,
        latest: datetime,
        listed_since: Callable[[datetime], Awaitable[bool]],
        catalog: Catalog,
        db: Database,
        clock: Clock,
    ) -> None:
        """`latest` is the last moment at which the create may be sent.

        `listed_since` looks whether the account was listed after a moment.
        """
        self.lease = lease
        self.offer = offer
        self._spec = spec
        self._provider = provider
        self._turns = turns
        self._listed_since = listed_since
        self._catalog = catalog
        self._db = db
        self._clock = clock
        self._latest_at = latest
        self._latest = clock.monotonic() + (latest - clock.now()).total_seconds()
        self._in_turn = False
        """From then on it is not withdrawn."""
        self._deferred_at: datetime | None = None

    async def run(self, stop: asyncio.Event, learnt: Learnt) -> None:
        """Create unless `stop` comes first, or the turn too late."""
        while await self._start(stop, learnt) and await self._waits_again(learnt):
            pass

    async def _waits_again(self, learnt: Learnt) -> bool:
        """Send the create and record what came of it; True when it waits for another turn."""
        try:
            receipt = await self._provider.create(self.offer, self._spec, self.lease.label)
        except RateLimited as limited:
            return await self._deferred(limited)
        except Refused as refusal:
            await self._refused(refusal, learnt)
        except OutcomeUnknown as lost:
            said = str(lost)
            await self._write(lambda tx: record.reply_lost(tx, self.lease.id, said))
        else:
            self._catalog.taken(self.offer)
            await self._write(lambda tx: record.created(tx, self.lease.id, receipt))
        return False

    async def _start(self, stop: asyncio.Event, learnt: Learnt) -> bool:
        """Wait for the turn and commit that the call starts; False when it must not be sent any more."""
        self._in_turn = False
        looked = await self._looked_through(stop)
        left = max(0.0, self._latest - self._clock.monotonic())
        if not looked or self._turns.pause > left:  # the provider wants no calls for longer than this one may wait
            if not stop.is_set():
                learnt.queued(self._turns.wait(self.lease.project))
            await self._write(lambda tx: record.not_attempted(tx, self.lease.id))
            return False
        sending = asyncio.create_task(self._started_in_turn(stop))
        stopped = asyncio.create_task(stop.wait())
        try:
            async with self._clock.timeout(left):
                await asyncio.wait((sending, stopped), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            if not self._in_turn:
                learnt.queued(self._turns.wait(self.lease.project))
        finally:
            stopped.cancel()
        if self._in_turn:
            return await sending
        sending.cancel()
        await asyncio.wait([sending])
        await self._write(lambda tx: record.not_attempted(tx, self.lease.id))
        return False

    async def _looked_through(self, stop: asyncio.Event) -> bool:
        """A create that was answered with "too many" goes out again only once a listing after it was looked through.

        Whoever answers so may have executed it all the same: the machine is found by that listing, and is the lease's.
        False: there was none in time.
        """
        if self._deferred_at is None:
            return True
        pause = self._turns.pause
        while not stop.is_set() and self._clock.monotonic() + pause < self._latest:
            with suppress(TimeoutError):
                async with self._clock.timeout(pause):
                    await stop.wait()
            if await self._listed_since(self._deferred_at):
                return True
            pause = _LOOK_AGAIN
        return False

    async def _started_in_turn(self, stop: asyncio.Event) -> bool:
        deadline = timedelta(seconds=self._provider.capabilities.create_timeout * self._clock.scale)
        interval = self._provider.capabilities.create_interval
        async with self._turns.turn(self.lease.project) as turn:
            if stop.is_set():
                return False
            self._in_turn = True
            turn.used = await self._write(
                lambda tx: record.call_started(tx, self.lease.id, tx.now() + deadline, self._latest_at, interval)
            )
            return turn.used

    async def _deferred(self, limited: RateLimited) -> bool:
        """True when the lease waits for another turn."""
        seconds = limited.retry_after or _UNSAID_PENALTY
        self._turns.heed(seconds, limited.interval)
        self._deferred_at = self._clock.now()
        return await self._write(
            lambda tx: record.deferred(tx, self.lease.id, limited, tx.now() + timedelta(seconds=seconds))
        )

    async def _refused(self, refusal: Refused, learnt: Learnt) -> None:
        learnt.refused(self.lease, refusal)
        if refusal.scope is Scope.OFFER:
            self._catalog.gone(self.offer.id)
        await self._write(lambda tx: record.refused(tx, self.lease.id, refusal))

    async def _write(self, unit: Callable[[Tx], T]) -> T:
        return await surely(self._db, self._clock, unit, self.lease.id)
