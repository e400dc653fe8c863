"""What speaks against a machine, and for how long it has: no machine is released for a single look at it.

Marketplaces describe a fresh machine wrongly before they describe it rightly: stopped before it boots, under another
model's name. So an objection is an observation. It becomes a verdict when every listing over a grace period says the
same; one listing that says otherwise clears the machine. In the same way a machine that should be ready is probed
several times, over some time, before it counts as one that does not answer.

All of this is what the present process saw; after a restart it begins anew.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gpuproxy.model.gpus import gpu_key
from gpuproxy.model.leases import RENTED, Lease, LeaseId
from gpuproxy.model.offers import AccountKey, HostKey
from gpuproxy.model.reservations import HOST_BROKEN, IMAGE_UNUSABLE, NOT_READY, WRONG_GPU
from gpuproxy.ports import Blame, InstanceStatus, ListedInstance
from gpuproxy.reconcile.listings import Listing

_LOOKS = 3
_BLAME_LOOKS, _BLAME_FOR = 2, timedelta(seconds=10)
"""A status message that names the fault leaves little doubt."""
_LAST_LOOKS, _LAST_LOOKED_FOR = 3, timedelta(seconds=30)
_NO_OPINION = frozenset({InstanceStatus.OFFLINE, InstanceStatus.UNSURE})
LATE = "LATE"
"""The objection to a machine that does not run although it should be ready by now."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """An objection that the last listings agree on; times are when those listings began."""

    objection: str
    """Why the machine would be released: an upper-case constant."""
    since: datetime
    last: datetime
    looks: int = 1

    def is_verdict(self, verdict_seconds: float) -> bool:
        """True when it was seen often enough, for long enough."""
        if self.objection in (IMAGE_UNUSABLE, HOST_BROKEN):
            return self.looks >= _BLAME_LOOKS and self.last - self.since >= _BLAME_FOR
        if self.objection == LATE:
            return self.looks >= _LAST_LOOKS and self.last - self.since >= _LAST_LOOKED_FOR
        return self.looks >= _LOOKS and self.last - self.since >= timedelta(seconds=verdict_seconds)


def objection(lease: Lease, instance: ListedInstance, *, late: bool = False) -> str:
    """What speaks against a machine that has not been ready yet; "" when nothing does.

    Of one that should be ready by now (`late`) it only matters that it does not run: other objections may come and go.
    """
    if late and not (instance.status is InstanceStatus.RUNNING and reachable(instance)):
        return LATE
    if instance.num_gpus and instance.num_gpus < lease.num_gpus:
        return WRONG_GPU
    if instance.gpu_model and gpu_key(instance.gpu_model) != gpu_key(lease.gpu_model):
        return WRONG_GPU
    if instance.blame is not None:
        return IMAGE_UNUSABLE if instance.blame is Blame.IMAGE else HOST_BROKEN
    return NOT_READY if instance.status in (InstanceStatus.BROKEN, InstanceStatus.STOPPED) else ""


def reachable(instance: ListedInstance) -> bool:
    """Whether the provider names an address of it."""
    return bool(instance.ssh_host and instance.ssh_port) or bool(instance.ports)


def after_listing(
    doubts: Mapping[LeaseId, Doubt],
    leases: Iterable[Lease],
    listing: Listing,
    late: Callable[[Lease], bool],
) -> dict[LeaseId, Doubt]:
    """The doubts with one more listing; a machine that it does not show, or knows nothing of, stays as doubted."""
    new: dict[LeaseId, Doubt] = {}
    for lease in leases:
        if lease.state not in RENTED or lease.ready_at is not None:
            continue
        instance, before = listing.shown(lease), doubts.get(lease.id)
        said = None if instance is None else objection(lease, instance, late=late(lease))
        if said is None or (said == "" and instance is not None and instance.status in _NO_OPINION):
            if before is not None:
                new[lease.id] = before
        elif before is not None and before.objection == said:
            new[lease.id] = replace(before, last=listing.began_at, looks=before.looks + 1)
        elif said:
            new[lease.id] = Doubt(said, listing.began_at, listing.began_at)
    return new


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Probes of a machine since it should have been ready, none of which was answered."""

    account: AccountKey
    host: HostKey
    first: datetime
    last: datetime
    knocks: int = 1
    checked_at: datetime | None = None
    """When our own network was last looked at."""
    network_suspected: bool = False
    """Nothing else answered either: it may be our own network."""

    @property
    def is_verdict(self) -> bool:
        """True when it was probed often enough, for long enough, and our own network was looked at."""
        return self._is_long and self.checked_at is not None

    @property
    def wants_check(self) -> bool:
        """True when it is time to see whether it is our own network that fails."""
        return self._is_long and (self.checked_at is None or self.last - self.checked_at >= _LAST_LOOKED_FOR)

    @property
    def _is_long(self) -> bool:
        return self.knocks >= _LAST_LOOKS and self.last - self.first >= _LAST_LOOKED_FOR


class Knocks:
    """The unanswered probes of this process, for all accounts."""

    def __init__(self) -> None:
        self.unanswered: dict[LeaseId, Unanswered] = {}

    def answered(self, lease: Lease) -> None:
        """The machine answers, or is not waited for any more."""
        self.unanswered.pop(lease.id, None)

    def missed(self, lease: Lease, at: datetime) -> bool:
        """One more probe of the machine was not answered; True when our own network must be looked at now."""
        before = self.unanswered.get(lease.id)
        if before is None:
            found = Unanswered((lease.provider, lease.account), lease.host, at, at)
        else:
            found = replace(before, last=at, knocks=before.knocks + 1)
        self.unanswered[lease.id] = found
        return found.wants_check

    def keep(self, account: AccountKey, live: Collection[LeaseId]) -> None:
        """Forget what is over at an account."""
        self.unanswered = {
            lease_id: each for lease_id, each in self.unanswered.items() if each.account != account or lease_id in live
        }

    def suspect_network(self, lease: Lease, *, suspected: bool) -> bool:
        """Note whether the silence may be our own network's; True when nobody suspected that before."""
        found = self.unanswered.get(lease.id)
        if found is None:
            return False
        before = any(each.network_suspected for each in self.unanswered.values())
        self.unanswered[lease.id] = replace(found, network_suspected=suspected, checked_at=found.last)
        return suspected and not before

    def elsewhere(self, host: HostKey) -> bool:
        """True when machines on other hosts do not answer either."""
        return any(each.host != host for each in self.unanswered.values())
