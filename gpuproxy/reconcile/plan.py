"""What must happen next on one account: a pure plan from our rows, a believable listing and the time.

A listing of None means that the provider did not answer. Then nothing is concluded about any machine, because no answer
does not prove absence. Steps change nothing by themselves: `observe` applies them. Applying a plan twice is harmless.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from gpuproxy.model import contracts, lease_ends
from gpuproxy.model.lease_events import Faltered, Gone, Parked, Ready, Release, ReplyLost, Woken
from gpuproxy.model.lease_facts import Missing, NotListed, Shown, StopDue
from gpuproxy.model.leases import BOOT_REQUESTED, RENTED, Billed, Lease, LeaseState
from gpuproxy.model.owners import Owner
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Capabilities, InstanceStatus, ListedInstance
from gpuproxy.reconcile.absence import ABSENT_LISTINGS, LISTINGS_APART, absence, has_canary, volume_absence
from gpuproxy.reconcile.booked import booked
from gpuproxy.reconcile.doubts import LATE, objection
from gpuproxy.reconcile.ending import ending
from gpuproxy.reconcile.idleness import idle, is_over
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.steps import (
    NEVER_READY,
    Adopt,
    Advance,
    Confirm,
    Destroy,
    Note,
    ProbeReady,
    ReadBoot,
    RegisterKeys,
    Scene,
    Step,
    Stop,
)
from gpuproxy.reconcile.ways_in import RUNNING, expects_ssh, runs_unprobed, ssh_address, ways_in


def plan(scene: Scene) -> list[Step]:
    """The steps for all live leases of an account, in order."""
    steps: list[Step] = []
    for lease in scene.leases:
        instance = scene.listing.shown(lease) if scene.listing else None
        steps.extend(_steps(lease, scene.owners[lease.owner_id], instance, scene))
    return steps


def _steps(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if lease.state in RENTED:
        yield from _rented(lease, owner, instance, scene)
    elif lease.state is LeaseState.RELEASING:
        yield from _releasing(lease, instance, scene)
    elif lease.state is LeaseState.UNKNOWN:
        yield from _unknown(lease, owner, instance, scene)
    elif (
        instance is not None and lease.creation.call_started_at is None
    ):  # the create was executed, whatever its answer said
        yield Adopt(lease, instance.id)
    elif _overdue(lease, scene):
        yield Advance(lease, ReplyLost("the outcome of the create was not recorded"))


def _unknown(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if instance is not None:
        yield Adopt(lease, instance.id)
    elif owner.closing or (lease.expires_at is not None and scene.now >= lease.expires_at):
        yield Advance(lease, Release(owner.unwanted_because, scene.now))
    else:
        yield from absence(lease, scene)


def _rented(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if instance is not None:
        yield from _news(lease, instance, scene.now, scene.capabilities)
    reason = _release_reason(lease, owner, instance, scene)
    if reason == Reason.NOT_READY and instance is not None:
        yield Advance(lease, Release(reason, scene.now, f"{NEVER_READY}: {_words(instance)}"))
    elif reason:
        yield Advance(lease, Release(reason, scene.now))
    else:
        yield from booked(lease, instance, scene)
        yield from ending(lease, instance, scene)
        yield from idle(lease, owner, instance, scene)
        yield from _kept(lease, instance, scene)


def _kept(lease: Lease, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if instance is not None:
        yield from _around_boot(lease, instance, scene.now)
        yield from _progress(lease, instance, scene)
        yield from _stopping(lease, instance, scene)
    elif scene.listing is not None and lease.kind == "volume":
        yield from volume_absence(lease, scene)
    elif scene.listing is not None:
        yield from _missing(lease, scene.listing, scene)


def _progress(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    if lease.observed.ready_at is None and objection(lease, instance) and not _doubted_enough(lease, scene):
        return  # the first descriptions of a new machine may be wrong
    if instance.status is InstanceStatus.STOPPED and lease.state is not LeaseState.PARKED:
        yield Advance(lease, Parked())
    elif lease.state is LeaseState.PARKED and _wakes(lease, instance):
        yield Advance(lease, Woken())
    elif lease.state is LeaseState.ACTIVE and instance.status in _FALTERING:
        yield Advance(lease, Faltered(scene.now))
    elif instance.status is InstanceStatus.RUNNING and lease.state is LeaseState.STARTING:
        yield from _readiness(lease, instance, scene)


def _readiness(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    """The step that finds out whether callers can get into a running machine."""
    owner = scene.owners[lease.owner_id]
    overdue = ready_is_overdue(lease, owner, scene.listing)
    if lease.pending.keys_state == "pending" and not overdue:
        return  # nobody can log in before the marketplace has the keys, or has refused them
    if runs_unprobed(lease, instance, scene.capabilities):
        yield Advance(lease, Ready(scene.now, RUNNING))
        return
    found = ways_in(lease, instance, check_key=scene.check_key)
    if expects_ssh(lease, scene.capabilities) and not _port_counts(lease, overdue=overdue):
        found = tuple(way for way in found if not way.container_port)
    if found:
        yield ProbeReady(lease, found, late=overdue and _replaced(lease, owner))


def _port_counts(lease: Lease, *, overdue: bool) -> bool:
    """True if a port that accepts shows that callers can get into a machine with SSH.

    A restarted machine whose SSH answered before must answer by SSH again, however old the machine is.
    """
    return overdue if lease.observed.ready_at is None else lease.observed.ready_evidence.startswith("port")


def _around_boot(lease: Lease, instance: ListedInstance, now: datetime) -> Iterator[Step]:
    """Steps for the SSH keys and the boot script of a machine. A report also tells why a machine does not get ready."""
    runs = instance.status is InstanceStatus.RUNNING
    if lease.pending.keys_state in ("pending", "unregistered") and (runs or instance.status is InstanceStatus.PENDING):
        yield RegisterKeys(lease, runs)
    slow = lease.started_at is not None and now - lease.started_at >= _SLOW_BOOT
    reported = lease.state is LeaseState.ACTIVE or (runs and slow)
    if reported and any(state == BOOT_REQUESTED for _, state in lease.observed.boot):
        yield ReadBoot(lease)


def _wakes(lease: Lease, instance: ListedInstance) -> bool:
    """True when a stopped machine is starting. One that boots although it is to be stopped will be stopped again."""
    booting = instance.status is InstanceStatus.PENDING and lease.pending.stop_at is None
    return booting or instance.status is InstanceStatus.RUNNING


def _stopping(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    """Stop a machine that its owner has stopped, and one that started again above its price ceiling.

    The latter is stopped and not released, because its data may be worth more than its price.
    """
    if instance.status not in (InstanceStatus.RUNNING, InstanceStatus.PENDING):
        return
    was_ready, stop_at = lease.observed.ready_at is not None, lease.pending.stop_at
    woken = lease.state is LeaseState.PARKED or (lease.state is LeaseState.STARTING and was_ready)
    if woken and stop_at is None and instance.price is not None and instance.price > lease.creation.ceiling + _ROUNDING:
        yield Note(lease, StopDue(scene.now))
        yield Stop(lease)
    elif stop_at is not None and stop_at <= scene.now:
        yield Stop(lease)


def _missing(lease: Lease, listing: Listing, scene: Scene) -> Iterator[Step]:
    if not _could_be_shown(lease, listing, scene):
        return
    if lease.pending.missing_since is None:
        yield Note(lease, Missing(scene.now))
    elif scene.now - lease.pending.missing_since >= timedelta(seconds=scene.limits.gone_after):
        yield Confirm(lease, alone=True)  # its owner wants it, so one read is no verdict


def _proves_little(listing: Listing, scene: Scene) -> bool:
    """Whether a listing may lack machines that exist, so that two reads are needed."""
    return bool(listing.unreadable) or scene.capabilities.listing_may_miss


def _releasing(lease: Lease, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if lease.instance_id is None:
        if instance is not None:
            yield Adopt(lease, instance.id)
        elif lease.creation.call_started_at is not None:
            yield from absence(lease, scene)
        return
    yield from booked(lease, instance, scene)
    due = lease.pending.destroy_at is None or lease.pending.destroy_at <= scene.now
    if scene.listing is not None and scene.listing.ends_silence and lease.pending.destroy_taken_at is None:
        due = True  # the waits grew because the marketplace did not answer; the pause of a rate limit is kept elsewhere
    if scene.listing is not None and instance is None and _could_be_shown(lease, scene.listing, scene):
        yield from _going(lease, scene.listing, scene)
    if due:
        yield Destroy(lease)
    if instance is not None and not _is_older(scene.listing, lease):
        yield from _news(lease, instance, scene.now, scene.capabilities)


def _is_older(listing: Listing | None, lease: Lease) -> bool:
    """Whether a listing began before the provider answered that there is no such instance."""
    return lease.pending.gone_said_at is not None and (
        listing is None or listing.began_at <= lease.pending.gone_said_at
    )


def _going(lease: Lease, listing: Listing, scene: Scene) -> Iterator[Step]:
    """Steps for a destroyed machine that is no longer listed. It is proven gone in one of two ways.

    1. A read of the machine answers that it does not exist.
    2. A destroy was accepted, and as many believable listings as prove an absence do not show the machine. A listing is
       believable after the destroy was answered with "no such instance", or when it shows another machine that is known
       to be alive, or while the account's credit does not change. Where listings may lack machines, they prove nothing.
    """
    if lease.pending.destroy_tries == 0:
        return
    yield Confirm(lease, alone=_proves_little(listing, scene))
    taken_at, said_at = lease.pending.destroy_taken_at, lease.pending.gone_said_at
    if _proves_little(listing, scene) or taken_at is None or listing.began_at <= taken_at:
        return
    said_gone = said_at is not None and listing.began_at > said_at
    if not (said_gone or has_canary(scene) or scene.credit_unchanged):
        return
    checked_at = lease.pending.absent_checked_at
    if checked_at is None or listing.began_at >= checked_at + LISTINGS_APART:
        enough = lease.pending.absent_checks + 1 >= ABSENT_LISTINGS
        yield Advance(lease, Gone(listing.began_at)) if enough else Note(lease, NotListed(listing.began_at))


def _could_be_shown(lease: Lease, listing: Listing, scene: Scene) -> bool:
    """Whether the listing would show the instance if it existed. New instances may be missing for a while."""
    if lease.started_at is None or listing.began_at <= lease.started_at:
        return False
    if lease.observed.seen_at is not None:
        return True
    return listing.began_at - lease.started_at >= timedelta(seconds=scene.capabilities.listing_lag_seconds)


def _release_reason(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Reason:
    """Why the machine must be released; NONE when it must not."""
    if _over(lease, owner, scene.now):
        return owner.closing or Reason.EXPIRED
    if instance is None:
        return Reason.NONE
    # The first listed price is the one that is checked. A volume that is in use is never released for its price.
    unpriced = lease.observed.priced_at is None and lease.kind == "machine"
    unjudged = lease.observed.ready_at is None or unpriced
    if unjudged and instance.price is not None and instance.price > lease.creation.ceiling + _ROUNDING:
        return Reason.PRICE_MOVED
    if lease.observed.ready_at is not None:
        return Reason.IDLE if is_over(lease, owner, instance, scene) else Reason.NONE
    if _doubted_enough(lease, scene):
        reason = scene.doubts[lease.id].objection
        if reason == Reason.WRONG_GPU or _replaced(lease, owner):
            return Reason.NOT_READY if reason == LATE else Reason(reason)
    if _replaced(lease, owner) and ready_is_overdue(lease, owner, scene.listing) and _silent(lease, scene):
        return Reason.NOT_READY
    return Reason.NONE


def _replaced(lease: Lease, owner: Owner) -> bool:
    """True if the machine is to be released when it does not get ready. It is not if it was ready once."""
    return lease.state is LeaseState.STARTING and owner.replace_unready and lease.observed.ready_at is None


def _doubted_enough(lease: Lease, scene: Scene) -> bool:
    doubt = scene.doubts.get(lease.id)
    return doubt is not None and doubt.is_verdict(scene.capabilities.verdict_seconds)


def _silent(lease: Lease, scene: Scene) -> bool:
    """True when no probe was answered for long enough: longer while our own network is suspected."""
    found = scene.unanswered.get(lease.id)
    if found is None or not found.is_verdict:
        return False
    patience = timedelta(seconds=scene.limits.own_network_seconds if found.network_suspected else 0)
    return found.last - found.first >= patience


def ready_is_overdue(lease: Lease, owner: Owner, listing: Listing | None) -> bool:
    """True when the ready timeout had passed when the listing began. That may be long ago: an answer can be slow."""
    if listing is None or lease.started_at is None:
        return False
    return listing.began_at - lease.started_at >= timedelta(seconds=owner.ready_timeout_s)


def _over(lease: Lease, owner: Owner, now: datetime) -> bool:
    """True when the owner's agreement to pay has ended."""
    return bool(owner.closing) or lease_ends.is_over(lease, now)


def _overdue(lease: Lease, scene: Scene) -> bool:
    patience = timedelta(seconds=scene.limits.overdue_call)
    return lease.creation.call_deadline is not None and scene.now >= lease.creation.call_deadline + patience


_ROUNDING = 1
"""Micro-dollars. An offer's prices of GPUs and disk are rounded each, a listing's sum only once: it can be higher."""
_SLOW_BOOT = timedelta(minutes=3)
"""After this time, the report of a running machine is read although the machine is not ready."""
_FALTERING = frozenset({InstanceStatus.PENDING, InstanceStatus.BROKEN, InstanceStatus.OFFLINE})
"""Statuses in which an active machine no longer counts as ready: the marketplace does not report it as running."""
_JUDGED = frozenset({Reason.NOT_READY, Reason.WRONG_GPU, Reason.HOST_BROKEN, Reason.IMAGE_UNUSABLE})
_BILLED: dict[InstanceStatus, Billed] = {
    InstanceStatus.PENDING: "disk",
    InstanceStatus.RUNNING: "all",
    InstanceStatus.STOPPED: "disk",
    InstanceStatus.BROKEN: "disk",
    InstanceStatus.OFFLINE: "nothing",
}
"""An unknown status does not change what is billed."""


def _news(lease: Lease, instance: ListedInstance, now: datetime, capabilities: Capabilities) -> Iterator[Note]:
    """A note of what the listing shows, unless the lease has it already."""
    contract_ends_at = instance.ends_at or lease.observed.contract_ends_at
    if instance.booking is not None and "extend" in capabilities.missing:  # then the booking is the contract
        contract_ends_at = lease.prepaid.booked_until
    judged = lease.reason in _JUDGED  # then the status message that explains the reason is kept
    shown = Shown(
        at=now,
        price=instance.price,
        disk_price=instance.stopped_price,
        billed=_BILLED.get(instance.status),
        status_message=None if judged else _words(instance),
        ssh=ssh_address(lease, instance),
        ports=instance.ports,
        contract_ends_at=contract_ends_at,
        too_soon=contracts.ends_too_soon(contract_ends_at, lease.expires_at, now),
    )
    if shown.change(lease) != lease:
        yield Note(lease, shown)


def _words(instance: ListedInstance) -> str:
    """The marketplace's own words. A broken or offline machine's message may be old, so its raw status comes first."""
    if instance.status in (InstanceStatus.BROKEN, InstanceStatus.OFFLINE) and instance.status_message:
        return f"{instance.raw_status}: {instance.status_message}"
    return instance.status_message or instance.raw_status
