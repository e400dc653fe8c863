"""Objections to a machine, and for how long they have lasted. No machine is released because of a single listing.

Marketplaces often describe a new machine wrongly at first: as stopped before it boots, or under another model's name.
So an objection is only an observation. It becomes a verdict when every listing over a grace period agrees; one listing
that disagrees clears the machine. In the same way, a machine that should be ready is probed several times over some
time before it counts as not answering.

All of this is kept in memory. After a restart it starts again from nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuproxy.model.gpus import gpu_key
from gpuproxy.model.leases import RENTED, Lease, LeaseId
from gpuproxy.model.offers import AccountKey, HostKey
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Blame, InstanceStatus, ListedInstance
from gpuproxy.reconcile.listings import Listing

_LOOKS = 3
_BLAME_LOOKS, _BLAME_FOR = 2, timedelta(seconds=10)
"""Fewer looks are enough for a status message that names the fault."""
_LAST_LOOKS, _LAST_LOOKED_FOR = 3, timedelta(seconds=30)
_NO_OPINION = frozenset({InstanceStatus.OFFLINE, InstanceStatus.UNSURE})
LATE = "LATE"
"""The objection to a machine that is not running although it should be ready by now."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """An objection that all of the last listings agree on. Times are when those listings began."""

    objection: str
    """Why the machine would be released: an upper-case constant."""
    since: datetime
    last: datetime
    looks: int = 1

    def is_verdict(self, verdict_seconds: float) -> bool:
        """True when it was seen often enough, for long enough."""
        if self.objection in (Reason.IMAGE_UNUSABLE, Reason.HOST_BROKEN):
            return self.looks >= _BLAME_LOOKS and self.last - self.since >= _BLAME_FOR
        if self.objection == LATE:
            return self.looks >= _LAST_LOOKS and self.last - self.since >= _LAST_LOOKED_FOR
        return self.looks >= _LOOKS and self.last - self.since >= timedelta(seconds=verdict_seconds)


def objection(lease: Lease, instance: ListedInstance, *, late: bool = False) -> str:
    """The objection to a machine that has not been ready yet; "" when there is none.

    If the machine should be ready by now and can't even be probed (`late`), the objection is LATE, whatever else is
    wrong. Otherwise objections that alternate would never become a verdict.
    """
    if late:
        return LATE
    if instance.num_gpus and instance.num_gpus < lease.offered.num_gpus:
        return Reason.WRONG_GPU
    if instance.gpu_model and gpu_key(instance.gpu_model) != gpu_key(lease.offered.gpu_model):
        return Reason.WRONG_GPU
    if instance.blame is not None:
        return Reason.IMAGE_UNUSABLE if instance.blame is Blame.IMAGE else Reason.HOST_BROKEN
    if instance.status is InstanceStatus.STOPPED and lease.pending.stop_at is not None:
        return ""  # it was created stopped
    return Reason.NOT_READY if instance.status in (InstanceStatus.BROKEN, InstanceStatus.STOPPED) else ""


def after_listing(
    doubts: Mapping[LeaseId, Doubt],
    leases: Iterable[Lease],
    listing: Listing,
    late: Callable[[Lease, ListedInstance], bool],
) -> dict[LeaseId, Doubt]:
    """The doubts after one more listing. `late`: whether a machine should be ready by now and can't be probed.

    A machine that the listing does not show, or shows without a clear status, keeps its doubt.
    """
    new: dict[LeaseId, Doubt] = {}
    for lease in leases:
        if lease.state not in RENTED or lease.observed.ready_at is not None:
            continue
        instance, before = listing.shown(lease), doubts.get(lease.id)
        found = None if instance is None else objection(lease, instance, late=late(lease, instance))
        if found is None or (found == "" and instance is not None and instance.status in _NO_OPINION):
            if before is not None:
                new[lease.id] = before
        elif before is not None and before.objection == found:
            new[lease.id] = replace(before, last=listing.began_at, looks=before.looks + 1)
        elif found:
            new[lease.id] = Doubt(found, listing.began_at, listing.began_at)
    return new


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Consecutive unanswered probes of a machine since it should have been ready."""

    account: AccountKey
    host: HostKey
    first: datetime
    last: datetime
    probes: int = 1
    checked_at: datetime | None = None
    """When our own network was last checked."""
    network_suspected: bool = False
    """No other machine answered either, so our own network may have failed."""

    @property
    def is_verdict(self) -> bool:
        """True when the machine was probed often enough, for long enough, and our own network was checked."""
        return self._is_long and self.checked_at is not None

    @property
    def wants_check(self) -> bool:
        """True when it is time to check our own network."""
        return self._is_long and (self.checked_at is None or self.last - self.checked_at >= _LAST_LOOKED_FOR)

    @property
    def _is_long(self) -> bool:
        return self.probes >= _LAST_LOOKS and self.last - self.first >= _LAST_LOOKED_FOR


class Probes:
    """The unanswered probes of this process, for all accounts."""

    def __init__(self) -> None:
        self.unanswered: dict[LeaseId, Unanswered] = {}

    def answered(self, lease: Lease) -> None:
        """Forget the machine: it has answered, or its answer is no longer needed."""
        self.unanswered.pop(lease.id, None)

    def missed(self, lease: Lease, at: datetime) -> bool:
        """Record one more unanswered probe. True when our own network must be checked now."""
        before = self.unanswered.get(lease.id)
        if before is None:
            found = Unanswered((lease.provider, lease.account), lease.offered.host, at, at)
        else:
            found = replace(before, last=at, probes=before.probes + 1)
        self.unanswered[lease.id] = found
        return found.wants_check

    def keep(self, account: AccountKey, live: Collection[LeaseId]) -> None:
        """Forget the leases of an account that are not in `live`."""
        self.unanswered = {
            lease_id: each for lease_id, each in self.unanswered.items() if each.account != account or lease_id in live
        }

    def suspect_network(self, lease: Lease, *, suspected: bool) -> bool:
        """Record the result of a check of our own network. True when the network was not suspected before."""
        found = self.unanswered.get(lease.id)
        if found is None:
            return False
        before = any(each.network_suspected for each in self.unanswered.values())
        self.unanswered[lease.id] = replace(found, network_suspected=suspected, checked_at=found.last)
        return suspected and not before

    def elsewhere(self, host: HostKey) -> bool:
        """True when machines on other hosts do not answer either."""
        return any(each.host != host for each in self.unanswered.values())
