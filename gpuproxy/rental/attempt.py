"""The create of one lease: wait for a turn, commit that the call starts, send it once, record the outcome.

If the marketplace answers that it wants fewer calls, the create waits for another turn. That is a wait of the
reservation, not a failure. If another account has a turn sooner, the create ends, and the rental tries that account.
A call in flight is never cancelled, even if its caller leaves. The outcome is written as soon as the database can be
written, however long that takes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.loadbalancer.exclusions import Exclusions
from gpuproxy.model import labelling, self_ending
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import (
    ClaimLost,
    OutcomeUnknown,
    ProviderUnavailable,
    RateLimited,
    Refused,
    Scope,
    TooSoon,
    Unavailable,
)
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import Offer
from gpuproxy.outcomes import record
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.ports.pacing import MARGIN
from gpuproxy.reconcile.watches import Watches
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.runtime.circuits import Circuit
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.runtime.turns import FairTurns
from gpuproxy.store import leases

T = TypeVar("T")

_DEFAULT_PAUSE = 5.0
_LISTING_RETRY = 2.0
_LAST_LOOK = 5.0
"""The longest wait for a listing before a create that was rate limited is left to another account."""

Elsewhere = Callable[[Lease, Offer], Awaitable[float | None]]
"""The seconds until another account could send the create of this lease; None if none could."""


async def nowhere(_lease: Lease, _offer: Offer) -> None:
    """No other account can rent the offer."""
    return


class Attempts:
    """Makes attempts from what they all share."""

    def __init__(
        self, accounts: Accounts, watches: Watches, catalog: Catalog, signer: Signer, *, db: Database, clock: Clock
    ) -> None:
        self._accounts = accounts
        self._signer = signer
        self._watches = watches
        self._catalog = catalog
        self._db = db
        self._clock = clock

    def of(
        self,
        lease: Lease,
        offer: Offer,
        spec: LaunchSpec,
        latest: datetime,
        require: Callable[[Tx], None],
        *,
        elsewhere: Elsewhere = nowhere,
    ) -> "Attempt":
        """The attempt to rent `offer` for `lease`; its create may not be sent after `latest`.

        `require` raises ClaimLost if another process rents for the lease's owner now.
        """
        return Attempt(
            lease,
            offer,
            replace(spec, self_ending=self_ending.carries_end(lease)),
            label=labelling.label_of(lease, self._signer),
            provider=self._accounts.provider_of(lease),
            turns=self._accounts.creates((lease.provider, lease.account)),
            circuit=self._accounts.circuit((lease.provider, lease.account)),
            elsewhere=elsewhere,
            latest=latest,
            require=require,
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
        label: str,
        provider: Provider,
        turns: FairTurns,
        circuit: Circuit,
        elsewhere: Elsewhere,
        latest: datetime,
        require: Callable[[Tx], None],
        listed_since: Callable[[datetime], Awaitable[bool]],
        catalog: Catalog,
        db: Database,
        clock: Clock,
    ) -> None:
        """`latest` is the last time at which the create may be sent.

        From now until `run` ends, the attempt counts as a call in flight of the account's `circuit`.
        `listed_since(at)` returns whether a listing of the account began after `at`.
        """
        self.lease = lease
        self.offer = offer
        self._spec = spec
        self._label = label
        self._provider = provider
        self._turns = turns
        self._circuit = circuit
        self._circuit.in_flight += 1
        self._elsewhere = elsewhere
        self._require = require
        self._listed_since = listed_since
        self._catalog = catalog
        self._db = db
        self._clock = clock
        self._latest_at = latest
        self._latest = clock.monotonic() + (latest - clock.now()).total_seconds()
        self._in_turn = False
        """True once the turn has begun. From then on the create is not withdrawn."""
        self._deferred_at: datetime | None = None

    async def run(self, stop: asyncio.Event, exclusions: Exclusions) -> None:
        """Send the create, unless `stop` is set first, the turn comes too late or another process rents now."""
        try:
            while await self._start(stop, exclusions) and await self._send(exclusions):
                pass
        except ClaimLost:
            stop.set()
        finally:
            self._circuit.in_flight -= 1

    async def _send(self, exclusions: Exclusions) -> bool:
        """Send the create and record its outcome. True when it has to wait for another turn."""
        try:
            receipt = await self._provider.create(self.offer, self._spec, self._label)
        except RateLimited as limited:
            self._circuit.succeeded()
            return await self._deferred(limited)
        except Refused as refusal:
            self._answered(refusal)
            await self._refused(refusal, exclusions)
        except OutcomeUnknown as lost:
            self._failed(costly=True)
            text = str(lost)
            await self._write(lambda tx: record.reply_lost(tx, self.lease.id, text))
        else:
            self._circuit.succeeded()
            self._turns.accepted()
            self._catalog.taken(self.offer)
            await self._write(lambda tx: record.created(tx, self.lease.id, receipt))
        return False

    def _answered(self, refusal: Refused) -> None:
        """Note in the circuit whether the marketplace works. A refusal of the offer shows that it does."""
        if isinstance(refusal, ProviderUnavailable):
            self._failed(costly=False)
        else:
            self._circuit.succeeded()
            self._turns.accepted()

    def _failed(self, *, costly: bool) -> None:
        self._circuit.failed(costly=costly)
        self._turns.disturb()

    async def _start(self, stop: asyncio.Event, exclusions: Exclusions) -> bool:
        """Wait for the turn and commit that the call starts. False when the create must not be sent any more."""
        self._in_turn = False
        listed = await self._listed_since_deferral(stop)
        left = max(0.0, self._latest - self._clock.monotonic())
        if not listed or self._turns.pause > left:  # the provider's pause ends after this create's last send time
            if not stop.is_set():
                exclusions.queued(self._turns.wait(self.lease.project))
            await self._write(lambda tx: record.not_attempted(tx, self.lease.id))
            return False
        sending = asyncio.create_task(self._started_in_turn(stop))
        leaving = asyncio.create_task(self._better_elsewhere(stop))
        try:
            async with self._clock.timeout(left):
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            if not self._in_turn:
                exclusions.queued(self._turns.wait(self.lease.project))
        finally:
            leaving.cancel()
        if self._in_turn:
            return await sending
        sending.cancel()
        await asyncio.wait([sending])
        await self._write(lambda tx: record.not_attempted(tx, self.lease.id))
        return False

    async def _better_elsewhere(self, stop: asyncio.Event) -> None:
        """Return when the create should no longer wait for its turn: it is stopped, or another account suits better."""
        while not stop.is_set():
            disturbed = self._turns.disturbed
            waits = [asyncio.ensure_future(event.wait()) for event in (stop, disturbed)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if disturbed.is_set() and await self._should_leave():
                return

    async def _should_leave(self) -> bool:
        """Whether another account suits better: it has a turn sooner, or this account does not answer creates."""
        try:
            other = await self._elsewhere(self.lease, self.offer)
        except Unavailable:  # it is not known, so the create stays where it is
            return False
        return other is not None and (other < self._turns.pause or self._circuit.failures > 0)

    async def _listed_since_deferral(self, stop: asyncio.Event) -> bool:
        """Wait until the account was listed after the create was rate limited. False when that took too long.

        The marketplace may have executed the create although it answered "too many requests". If it did, that listing
        shows the machine and the lease adopts it, so the create must not be sent again before.
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
            pause = _LISTING_RETRY
        return False

    async def _started_in_turn(self, stop: asyncio.Event) -> bool:
        """Wait for the turn and commit that the call starts. If another process has used the turn, wait again."""
        while True:
            try:
                return await self._started(stop)
            except TooSoon as early:
                self._in_turn = False
                self._turns.hold(early.seconds)

    async def _started(self, stop: asyncio.Event) -> bool:
        patience = timedelta(seconds=self._provider.capabilities.create_timeout * self._clock.scale)
        interval, shared = self._provider.capabilities.create_interval, not self._db.exclusive
        if shared:
            interval = max(interval * MARGIN, self._turns.interval)
        async with self._turns.turn(self.lease.project) as turn:
            if stop.is_set() or self._circuit.state == "open":
                return False
            self._in_turn = True
            turn.used = await self._write(
                lambda tx: record.call_started(
                    tx,
                    self.lease.id,
                    patience,
                    self._latest_at,
                    interval,
                    require=self._require,
                    shared=shared,
                ),
                record.start_ahead,
            )
            return turn.used

    async def _deferred(self, limited: RateLimited) -> bool:
        """Record that the create was rate limited. True when the lease waits for another turn."""
        seconds = self._turns.slow_down(limited.retry_after or _DEFAULT_PAUSE, limited.interval)
        self._deferred_at = self._clock.now()
        waits = await self._write(
            lambda tx: record.deferred(tx, self.lease.id, limited, tx.now() + timedelta(seconds=seconds))
        )
        if not waits or not await self._should_leave():
            return waits
        await self._leave_to_another(limited)
        return False

    async def _leave_to_another(self, limited: RateLimited) -> None:
        """End the lease, so that the rental replaces it with another account.

        The marketplace may have executed the create although it answered "too many requests". So the account is listed
        first, if that is possible soon: a machine that is shown is kept.
        """
        at = self._deferred_at or self._clock.now()
        with suppress(TimeoutError):
            async with self._clock.timeout(_LAST_LOOK):
                await self._listed_since(at)
        await self._write(lambda tx: record.refused(tx, self.lease.id, limited))

    async def _refused(self, refusal: Refused, exclusions: Exclusions) -> None:
        exclusions.refused(self.lease, refusal)
        if refusal.scope is Scope.OFFER:
            self._catalog.gone(self.offer.id)
        await self._write(lambda tx: record.refused(tx, self.lease.id, refusal))

    async def _write(self, unit: Callable[[Tx], T], ahead: Callable[[Tx, Lease], None] = leases.event_ahead) -> T:
        """Write a unit about the lease. `ahead` says what it will read."""

        def write(tx: Tx) -> T:
            ahead(tx, self.lease)
            return unit(tx)

        return await write_until_committed(self._db, self._clock, write, self.lease.id)
