"""Proof that a create never happened: the only way in which an unknown outcome ends without a machine.

Marketplaces execute creates late, and their listings can lag or be wrong. So a proof needs three things:

- Time: the declared late-execution bound has passed since the end of the call, and again since a restart.
- Three listings, 15 s apart, that do not show the machine.
- Each of these listings is believable: it shows a machine that is known to be alive (the canary). Without a canary, the
  account's credit must not have changed, and twice the bound must have passed.

On a prepaid marketplace nothing is proven in this way: a wrong proof would pay for a whole booking twice.
"""

from collections.abc import Iterator
from datetime import timedelta

from gpuproxy.model.lease_events import Absent, Vanished
from gpuproxy.model.lease_facts import NotListed, Suspected
from gpuproxy.model.leases import RENTED, Lease
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import ListedInstance
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.steps import Advance, Note, Scene, Step

ABSENT_LISTINGS = 3
LISTINGS_APART = timedelta(seconds=15)
_SKEW = timedelta(minutes=5)
"""How far the marketplace's clock may be behind ours."""


def absence(lease: Lease, scene: Scene) -> Iterator[Step]:
    """The next step towards a proof, for a lease whose create may have happened and that no listing has shown."""
    if scene.listing is None or not may_be_proven(lease, scene):
        return
    suspect = _suspect(lease, scene.listing)
    if suspect is not None:
        text = f"instance {suspect.id} has no label and may be this one: if it is not yours, destroy it at the provider"
        if lease.observed.status_message != text or lease.pending.absent_checks:
            yield Note(lease, Suspected(text))
        return
    began = scene.listing.began_at
    if lease.pending.absent_checked_at is not None and began < lease.pending.absent_checked_at + LISTINGS_APART:
        return
    if lease.pending.absent_checks + 1 < ABSENT_LISTINGS:
        yield Note(lease, NotListed(began))
    else:
        yield Advance(lease, Absent(began, Reason.NEVER_CREATED))


def volume_absence(lease: Lease, scene: Scene) -> Iterator[Step]:
    """The next step towards a proof that the marketplace has deleted a volume.

    As many believable listings as prove the absence of a machine must not show it. A listing is believable if it shows
    another known volume; or if the account's machines are listed as they should be, and none that runs mounts this one.
    """
    listing = scene.listing
    if listing is None or listing.unreadable or lease.observed.seen_at is None:
        return
    if not (has_canary(scene) or (scene.vouched and lease.instance_id not in scene.mounted)):
        return
    checked_at = lease.pending.absent_checked_at
    if lease.pending.absent_checks and checked_at is not None and listing.began_at < checked_at + LISTINGS_APART:
        return
    enough = lease.pending.absent_checks + 1 >= ABSENT_LISTINGS
    yield Advance(lease, Vanished()) if enough else Note(lease, NotListed(listing.began_at))


def may_be_proven(lease: Lease, scene: Scene) -> bool:
    """True if the present listing counts as one that does not show the instance."""
    bound = scene.capabilities.late_seconds
    if bound is None or scene.capabilities.billing == "prepaid":
        return False
    if lease.creation.call_deadline is None or scene.listing is None or scene.listing.unreadable:
        return False
    canary = has_canary(scene)
    quarantine = timedelta(seconds=bound if canary else 2 * bound)
    if not (canary or scene.credit_unchanged):
        return False
    return scene.listing.began_at > max(lease.creation.call_deadline, scene.since) + quarantine


def has_canary(scene: Scene) -> bool:
    """True when the listing shows a machine that is known to be alive."""
    if scene.listing is None:
        return False
    shown = {instance.id for instance in scene.listing.instances}
    return any(
        lease.state in RENTED and lease.observed.seen_at and lease.instance_id in shown for lease in scene.leases
    )


def _suspect(lease: Lease, listing: Listing) -> ListedInstance | None:
    """An instance without a label, on the lease's machine and created after its call. It prevents a proof.

    Its creation time is by the marketplace's clock, which may differ from ours.
    """
    machine = lease.offered.host.rpartition("/")[2]
    for instance in listing.instances:
        if instance.label or instance.machine_id != machine:
            continue
        began = lease.creation.call_started_at
        if instance.created_at is None or began is None or instance.created_at >= began - _SKEW:
            return instance
    return None
