"""Proof that a create never happened: the only way in which an unknown outcome ends without a machine.

Marketplaces execute creates late, and their listings can lag or be wrong. So a proof needs three things:

- Time: the declared late-execution bound has passed since the end of the call, and again since a restart.
- Three listings, 15 s apart, that do not show the machine.
- Each of these listings is believable: it shows a machine that is known to be alive (the canary). Without a canary, the
  account's credit must not have changed, and twice the bound must have passed.

On a prepaid marketplace nothing is proven in this way: a wrong proof would pay for a whole booking twice. There, a
create ends when its machine is found, or when everything that it may have booked is over. Then nobody knows whether it
was paid.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from gpuproxy.model.bookings import HOUR, price_of
from gpuproxy.model.lease_events import Absent, Vanished
from gpuproxy.model.lease_facts import NotListed, Suspected
from gpuproxy.model.leases import RENTED, InstanceId, Lease
from gpuproxy.model.money import dollars
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import ListedInstance
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.steps import Advance, Note, Scene, Step

ABSENT_LISTINGS = 3
LISTINGS_APART = timedelta(seconds=15)
VOLUME_LISTINGS_APART = timedelta(minutes=5)
"""A volume has no read of its own, so that only time can show whether listings just lack it."""
LATE_BOOKING = timedelta(hours=1)
"""How long after its call a create is assumed to be executed at the latest, where the marketplace gives no bound."""
_TELLING, _STEM = len("gpx-aaaaaa-"), len("gpx-aaaaaa-aaaaaaaa-01")
"""The lengths of the beginnings of a label that name the deployment, and the attempt."""
_SKEW = timedelta(minutes=5)
"""How far the marketplace's clock may be behind ours."""


def absence(lease: Lease, scene: Scene) -> Iterator[Step]:
    """The next step towards a proof, for a lease whose create may have happened and that no listing has shown."""
    if scene.listing is None:
        return
    if lease.is_prepaid:
        yield from _given_up(lease, scene, scene.listing)
        return
    if not may_be_proven(lease, scene):
        return
    suspect = _suspect(lease, scene.listing, {each.instance_id for each in scene.leases})
    if suspect is not None:
        what = f"instance {suspect.id} has no valid label and may be this one"
        text = f"{what}: if it is not yours, destroy it at the provider"
        if lease.observed.status_message != text or lease.pending.absent_checks:
            yield Note(lease, Suspected(text))
        return
    yield from _counted(lease, scene.listing, Absent(scene.listing.began_at, Reason.NEVER_CREATED))


def _counted(lease: Lease, listing: Listing, end: Absent) -> Iterator[Step]:
    """One more listing that does not show the machine. The last one ends the lease."""
    checked_at = lease.pending.absent_checked_at
    if checked_at is not None and listing.began_at < checked_at + LISTINGS_APART:
        return
    enough = lease.pending.absent_checks + 1 >= ABSENT_LISTINGS
    yield Advance(lease, end) if enough else Note(lease, NotListed(listing.began_at))


def last_end(lease: Lease, late_seconds: float | None) -> datetime | None:
    """The latest end of what a create without an answer may have booked; None while its call is under way."""
    if lease.creation.call_deadline is None:
        return None
    late = max(timedelta(seconds=late_seconds or 0), LATE_BOOKING)
    return lease.creation.call_deadline + lease.prepaid.booked_hours * HOUR + late


def _given_up(lease: Lease, scene: Scene, listing: Listing) -> Iterator[Step]:
    """End a prepaid create that no listing has shown until the end of the longest booking that it may have made."""
    ends_at = last_end(lease, scene.capabilities.late_seconds)
    if ends_at is None or listing.unreadable or listing.began_at <= ends_at:
        return
    amount = dollars(price_of(lease, lease.prepaid.booked_hours))
    text = (
        f"no machine was found before {ends_at:%Y-%m-%d %H:%MZ}, the latest end of its booking. The booking "
        f"({amount}) may have been paid: look for {lease.label} in the marketplace's bill"
    )
    yield from _counted(lease, listing, Absent(listing.began_at, Reason.BOOKING_NOT_FOUND, text))


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
    if lease.pending.absent_checks and checked_at is not None and listing.began_at < checked_at + VOLUME_LISTINGS_APART:
        return
    enough = lease.pending.absent_checks + 1 >= ABSENT_LISTINGS
    yield Advance(lease, Vanished()) if enough else Note(lease, NotListed(listing.began_at))


def may_be_proven(lease: Lease, scene: Scene) -> bool:
    """True if the present listing counts as one that does not show the instance."""
    bound = scene.capabilities.late_seconds
    if bound is None or scene.capabilities.billing == "prepaid" or scene.capabilities.listing_may_miss:
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


def _suspect(lease: Lease, listing: Listing, known: Collection[InstanceId | None]) -> ListedInstance | None:
    """An instance without a readable label, on the lease's machine and created after its call. It prevents a proof.

    A label that begins as the lease's does, with at least the deployment, is not readable: it was cut or altered.
    `known`: the contract ids of leases. The creation time is by the marketplace's clock, which may differ from ours.
    """
    machine = lease.offered.host.rpartition("/")[2]
    for instance in listing.instances:
        if instance.machine_id != machine or instance.id in known or not _may_be(lease.label, instance.label):
            continue
        began = lease.creation.call_started_at
        if instance.created_at is None or began is None or instance.created_at >= began - _SKEW:
            return instance
    return None


def _may_be(label: str, shown: str | None) -> bool:
    """Whether a machine that was created with `label` may be shown with the other one, which is not it."""
    return not shown or (len(shown) >= _TELLING and shown[:_STEM] == label[: min(len(shown), _STEM)])
