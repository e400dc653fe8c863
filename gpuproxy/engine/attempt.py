"""One lease's create: wait for its turn, commit that the call starts, send it once, record what came of it.

A call in flight is never cancelled, whatever becomes of its caller. What was learnt is written down however long the
database takes to come back.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import structlog

from gpuproxy.engine import record
from gpuproxy.engine.catalog import Catalog
from gpuproxy.engine.choice import Exclusions
from gpuproxy.engine.persist import surely
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Advice, OfferGone, OutcomeUnknown, RateLimited, Refused, Scope
from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import Offer
from gpuproxy.pacing import Pace
from gpuproxy.ports import Clock, Database, Provider, Tx

log = structlog.get_logger(__name__)
T = TypeVar("T")

_UNSAID_PENALTY = 5.0
_FAILURES_ALLOWED = 3
_INSTANT = 1e-6


class Attempt:
    """The create of one lease, on behalf of one call."""

    def __init__(
        self,
        lease: Lease,
        offer: Offer,
        spec: LaunchSpec,
        *,
        provider: Provider,
        pace: Pace,
        catalog: Catalog,
        db: Database,
        clock: Clock,
    ) -> None:
        """Made right after the intent: the wait for its turn runs on the monotonic clock from here."""
        self.lease = lease
        self.offer = offer
        self._spec = spec
        self._provider = provider
        self._pace = pace
        self._catalog = catalog
        self._db = db
        self._clock = clock
        self._due = clock.monotonic() + (lease.send_at - lease.created_at).total_seconds()

    async def run(self, stop: asyncio.Event, out: Exclusions, failures: dict[str, int]) -> None:
        """Create unless `stop` comes first; what should not be tried again goes into `out`."""
        capabilities = self._provider.capabilities
        if not await self._turn(stop):
            await self._write(lambda tx: record.not_attempted(tx, self.lease.id, capabilities))
            return
        deadline = timedelta(seconds=capabilities.create_timeout * self._clock.scale)
        if not await self._write(lambda tx: record.call_started(tx, self.lease.id, tx.now() + deadline)):
            return
        self._pace.hold(self._pace.interval)  # the next one is an interval behind this one, however late it is sent
        try:
            receipt = await self._provider.create(self.offer, self._spec, self.lease.label)
        except Refused as refusal:
            await self._refused(refusal, out, failures)
        except OutcomeUnknown as lost:
            said = str(lost)
            log.info("create_unknown", lease=self.lease.id, offer=self.offer.id, error=said, status=lost.status)
            await self._write(lambda tx: record.reply_lost(tx, self.lease.id, said))
        else:
            self._catalog.taken(self.offer)
            await self._write(lambda tx: record.created(tx, self.lease.id, receipt))

    async def _turn(self, stop: asyncio.Event) -> bool:
        """Wait for the account's pace, as planned and as kept; False when `stop` came first."""
        while (wait := max(self._due - self._clock.monotonic(), self._pace.wait())) > _INSTANT and not stop.is_set():
            with suppress(TimeoutError):
                async with self._clock.timeout(wait):
                    await stop.wait()
        if stop.is_set():
            return False
        self._pace.reserve()
        return True

    async def _refused(self, refusal: Refused, out: Exclusions, failures: dict[str, int]) -> None:
        retry_at = None
        if isinstance(refusal, RateLimited):
            retry_at = self._clock.now() + timedelta(seconds=refusal.retry_after or _UNSAID_PENALTY)
        log.info("create_refused", lease=self.lease.id, offer=self.offer.id, reason=refusal.reason, error=str(refusal))
        self._learn(refusal, out, failures)
        await self._write(lambda tx: record.refused(tx, self.lease.id, refusal, retry_at))

    def _learn(self, refusal: Refused, out: Exclusions, failures: dict[str, int]) -> None:
        if isinstance(refusal, RateLimited):
            return  # the offer is as good as before; the account waits
        if refusal.scope is Scope.ACCOUNT:
            out.accounts.add((self.lease.provider, self.lease.account))
        elif refusal.scope is Scope.HOST:
            out.hosts.add(self.lease.host)
        elif refusal.scope is Scope.OFFER:
            out.offers.add(self.offer.id)
            self._catalog.gone(self.offer.id)
        if not isinstance(refusal, OfferGone) and refusal.advice is not Advice.TRY_NEXT:
            failures[self.lease.provider] = failures.get(self.lease.provider, 0) + 1
            if failures[self.lease.provider] >= _FAILURES_ALLOWED:
                out.providers.add(self.lease.provider)

    async def _write(self, unit: Callable[[Tx], T]) -> T:
        return await surely(self._db, self._clock, unit, self.lease.id)
