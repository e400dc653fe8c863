"""The effects on bookings: send an extension once, and read what is booked.

The outcome of an extension is written as soon as the database can be written. If the process dies before, the booking
stays `sent`, and reads decide later what came of it. What the reads of this process have shown is kept in memory: after
a restart, two new ones are needed.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from gpuproxy.model.bookings import READS_APART, BookingRecord, Seen
from gpuproxy.model.errors import OutcomeUnknown, ProviderError, Refused, Unavailable
from gpuproxy.model.leases import InstanceId, Lease, LeaseId, LeaseState
from gpuproxy.outcomes import extensions
from gpuproxy.ports import Clock, Database, Provider, Tx
from gpuproxy.runtime.limits import Limits
from gpuproxy.runtime.persist import write_until_committed
from gpuproxy.store import claims
from gpuproxy.store.claims import Claim

log = structlog.get_logger(__name__)

_AGAIN = timedelta(seconds=5)
"""The wait after a read that showed nothing."""


@dataclass(slots=True)
class _Reads:
    """The reads of one machine that have decided nothing yet."""

    first: Seen | None = None
    next_at: datetime | None = None


class Extending:
    """Extends and reads the machines of one account. `changed` is called when the next pass should come soon."""

    def __init__(
        self, provider: Provider, db: Database, clock: Clock, limits: Limits, changed: Callable[[], None]
    ) -> None:
        self._provider = provider
        self._db = db
        self._clock = clock
        self._limits = limits
        self._changed = changed
        self._reads: dict[LeaseId, _Reads] = {}
        self._sending: set[LeaseId] = set()
        """Extensions that may not have reached the marketplace yet: no read shows what came of them."""

    def forget(self, live: Collection[LeaseId]) -> None:
        """Forget the reads of all leases that are not in `live`."""
        self._reads = {lease_id: reads for lease_id, reads in self._reads.items() if lease_id in live}

    async def extend(self, lease: Lease, claim: Claim) -> None:
        """Commit an extension, send it once, and record its outcome. Raises ClaimLost."""
        margin = timedelta(seconds=self._limits.extend_margin)
        patience = timedelta(seconds=self._provider.capabilities.create_timeout * self._clock.scale)

        def begin(tx: Tx) -> BookingRecord | None:
            claims.require(tx, claim)
            return extensions.begin(tx, lease.id, self._limits.prepaid_hours, margin, patience)

        try:
            booking = await self._db.write(begin)
        except Unavailable as error:
            log.warning("database_unavailable", account=self._provider.account, error=str(error.__cause__))
            return
        if booking is None or lease.instance_id is None:
            return
        self._reads.pop(lease.id, None)  # what was read before proves nothing about this extension
        self._sending.add(lease.id)
        try:
            outcome = await self._sent(lease.instance_id, booking)
        finally:
            self._sending.discard(lease.id)
        await write_until_committed(self._db, self._clock, outcome, lease.id)
        self._changed()

    async def _sent(self, contract: InstanceId, booking: BookingRecord) -> Callable[[Tx], None]:
        """Send an extension; returns what records its outcome."""
        try:
            await self._provider.extend(contract, booking.hours)
        except Refused as error:
            refusal = error
            return lambda tx: extensions.refused(tx, booking, refusal)
        except (OutcomeUnknown, ProviderError) as error:
            text = str(error)
            return lambda tx: extensions.unknown(tx, booking, text)
        return lambda tx: extensions.bought(tx, booking)

    async def read(self, lease: Lease, claim: Claim) -> None:
        """Read what is booked, unless it is too early, and decide what follows. Raises ClaimLost."""
        reads, began = self._reads.setdefault(lease.id, _Reads()), self._clock.now()
        is_last = lease.state is LeaseState.RELEASING  # the machine is soon gone, and can't be read again
        too_soon = reads.next_at is not None and began < reads.next_at and not is_last
        if lease.instance_id is None or lease.id in self._sending or too_soon:
            return
        reads.next_at = began + _AGAIN
        try:
            found = await self._provider.get(lease.instance_id)
        except ProviderError:
            return
        if found is not None and found.booking is not None:
            seen = Seen(began, found.booking.until, found.booking.paid)
        elif is_last and reads.first is not None:
            seen = reads.first
        else:
            reads.first, reads.next_at = None, began + READS_APART  # whether it has ended is decided elsewhere
            return

        def decide(tx: Tx) -> extensions.Verdict:
            claims.require(tx, claim)
            return extensions.read(tx, lease.id, reads.first, seen)

        try:
            verdict = await self._db.write(decide)
        except Unavailable as error:
            log.warning("database_unavailable", account=self._provider.account, error=str(error.__cause__))
            return
        if verdict == "decided":
            self._reads.pop(lease.id, None)
            self._changed()
        elif verdict == "too early":
            reads.first = None
        elif reads.first is None or not seen.agrees(reads.first):
            reads.first, reads.next_at = seen, began + READS_APART
