"""What a supervisor has seen of one pool. It is lost with the process, and seen again before anything follows."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuproxy.model.leases import LeaseId
from gpuproxy.model.offers import OfferId
from gpuproxy.store.claims import Claim
from gpuproxy.warmpool.scene import AtRest
from gpuproxy.warmpool.signals import Health

STOP_EVERY = timedelta(seconds=10)
"""A stop is repeated after this time if the machine is not at rest."""

SENT_WITHIN = 60.0
"""Real seconds. A start or stop that has no answer by then is cancelled, so that a paused process sends none later."""
_STOP_AGAIN = timedelta(seconds=2)


@dataclass(slots=True)
class Memory:
    """Observations about the machines of one pool."""

    began_at: datetime | None = None
    """When this process took up the pool."""
    health: Health = field(default_factory=Health)
    trusted_from: datetime | None = None
    """Reads before this time prove nothing, because a start of an earlier supervisor may still be on its way.

    None: there is no other process.
    """
    claim: Claim | None = None
    """The claim under which everything here was seen; None before the first look."""
    of: LeaseId | None = None
    """The primary that `health` is about."""
    at_rest: dict[LeaseId, AtRest] = field(default_factory=dict)
    stopped_at: dict[LeaseId, datetime] = field(default_factory=dict)
    """When the marketplace last accepted a stop."""
    stop_sent_at: dict[LeaseId, datetime] = field(default_factory=dict)
    gone: set[LeaseId] = field(default_factory=set)
    refused: set[OfferId] = field(default_factory=set)
    """Offers of the host that were refused, so that the next one is tried."""

    def is_under(self, claim: Claim | None) -> bool:
        """Whether nobody else has had the claim since this memory began. The first claim is noted."""
        if claim is None:
            return False
        if self.claim is None:
            self.claim = claim
        return (claim.name, claim.fence) == (self.claim.name, self.claim.fence)

    def primary_is(self, primary: LeaseId | None) -> None:
        """Begin anew if the pool has another primary."""
        if primary != self.of:
            self.of, self.health = primary, Health()

    def no_verdict(self) -> None:
        """Forget what earlier checks have shown: they say nothing of a primary that was not checked since."""
        seen = self.health
        self.health = Health(checked_at=seen.checked_at, good_at=seen.good_at)

    def wants_stop(self, lease_id: LeaseId, now: datetime) -> bool:
        """Whether a stop is to be sent now."""
        sent = self.stop_sent_at.get(lease_id)
        return sent is None or now - sent >= STOP_EVERY

    def stop_failed(self, lease_id: LeaseId, now: datetime) -> None:
        """Record that a stop was not accepted: it is sent again soon."""
        self.stop_sent_at[lease_id] = now - STOP_EVERY + _STOP_AGAIN

    def read(self, lease_id: LeaseId, *, at_rest: bool, sent_at: datetime) -> None:
        """Record a read of a machine. It counts only if it was sent after a stop was accepted.

        A primary that has answered since the first read begins a new proof.
        """
        accepted, good_at = self.stopped_at.get(lease_id), self.health.good_at
        before = self.at_rest.get(lease_id)
        if before is not None and lease_id == self.of and good_at is not None and good_at >= before.first:
            before = None
        if not at_rest:
            self.at_rest.pop(lease_id, None)
        elif self.trusted_from is not None and sent_at < self.trusted_from:
            return
        elif accepted is not None and sent_at >= accepted:
            self.at_rest[lease_id] = AtRest(sent_at if before is None else before.first, sent_at)

    def started(self, lease_id: LeaseId) -> None:
        """Forget all proofs about a machine that is about to be started."""
        for seen in (self.at_rest, self.stopped_at, self.stop_sent_at):
            seen.pop(lease_id, None)
