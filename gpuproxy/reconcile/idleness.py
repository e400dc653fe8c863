"""Idle machines: which listings make an unbroken series, the notice to the owner, and the release. Pure.

- A series begins with the first listing that shows an active machine with a low GPU utilisation. It is stored once it
  has lasted a few minutes, so that a machine whose work comes in bursts causes no writes.
- A listing that shows more, no value, no machine, or a machine that does not run ends the series.
- So does a time without a listing that is longer than `Limits.idle_gap`: nobody knows what the machine did then.
- The owner gets a notice after half of `release_idle_after`. The machine is released after the same time again, by a
  listing of the same series.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from gpuproxy.model import idleness
from gpuproxy.model.lease_facts import Idle, IdleNotice
from gpuproxy.model.leases import Lease, LeaseId, LeaseState
from gpuproxy.model.owners import Owner
from gpuproxy.ports import InstanceStatus, ListedInstance
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.steps import Note, Scene
from gpuproxy.runtime.limits import Limits

_COUNTS_AFTER = timedelta(minutes=5)
"""How long a series lasts before it is stored."""


def after_listing(
    begun: Mapping[LeaseId, datetime], leases: Iterable[Lease], listing: Listing, before: datetime, limits: Limits
) -> dict[LeaseId, datetime]:
    """When the series began that are not stored, of the machines that this listing shows as idle.

    `before`: when the listing before this one began. A machine with a stored series that goes on is left out.
    """
    unbroken = listing.began_at - before <= limits.idle_gap
    found: dict[LeaseId, datetime] = {}
    for lease in leases:
        if _is_idle(lease, listing.shown(lease), limits) and not (unbroken and lease.observed.idle_since is not None):
            found[lease.id] = begun.get(lease.id, listing.began_at) if unbroken else listing.began_at
    return found


def idle(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Iterator[Note]:
    """The steps that begin or end the stored series of a rented machine, and the notice to its owner."""
    if scene.listing is None:
        return
    since, began = lease.observed.idle_since, scene.idle.get(lease.id)
    if since is not None:
        if began is not None or not _is_idle(lease, instance, scene.limits):
            yield Note(lease, Idle(None))
            return
    elif began is not None and scene.listing.began_at - began >= _COUNTS_AFTER:
        since = began
        yield Note(lease, Idle(began))
    if since is None or lease.observed.idle_notice_at is not None or not _may_release(lease, owner):
        return
    if scene.listing.began_at - since >= idleness.notice_after(lease):
        yield Note(lease, IdleNotice(scene.now))


def is_over(lease: Lease, owner: Owner, instance: ListedInstance, scene: Scene) -> bool:
    """Whether the machine must be released, because it has been idle for long enough after the notice."""
    if scene.listing is None or lease.id in scene.idle or not _is_idle(lease, instance, scene.limits):
        return False
    at = idleness.release_at(lease) if lease.observed.idle_notice_at is not None else None
    return at is not None and _may_release(lease, owner) and scene.listing.began_at >= at


def _may_release(lease: Lease, owner: Owner) -> bool:
    """Warm pools decide about their machines themselves. A reservation that still rents would replace the machine."""
    return idleness.is_releasable(lease) and owner.kind == "reservation" and owner.concluded


def _is_idle(lease: Lease, instance: ListedInstance | None, limits: Limits) -> bool:
    """Whether a listing shows that callers can use the machine and that its GPUs do nothing. Unknown is not idle."""
    if instance is None or lease.state is not LeaseState.ACTIVE or instance.status is not InstanceStatus.RUNNING:
        return False
    return lease.kind == "machine" and instance.gpu_util is not None and instance.gpu_util <= limits.idle_below
