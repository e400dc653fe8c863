"""What must happen next on one account: a pure plan from our rows, a believable listing and the time.

A listing of None means that the provider did not answer. Then nothing is concluded about any machine, because no answer
does not prove absence. Steps change nothing by themselves: `observe` applies them. Applying a plan twice is harmless.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from gpuproxy.model import contracts
from gpuproxy.model.leases import BOOT_REQUESTED, RENTED, Lease, LeaseEvent, LeaseState
from gpuproxy.model.owners import Owner
from gpuproxy.model.reservations import HOST_BROKEN, IMAGE_UNUSABLE, NOT_READY, WRONG_GPU
from gpuproxy.ports import InstanceStatus, ListedInstance
from gpuproxy.reconcile.absence import ABSENT_LISTINGS, LISTINGS_APART, absence, has_canary
from gpuproxy.reconcile.doubts import LATE, objection
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
    elif instance is not None and lease.call_started_at is None:  # the create was executed, whatever its answer said
        yield Adopt(lease, instance.id)
    elif _overdue(lease, scene):
        yield Advance(lease, LeaseEvent.REPLY_LOST, {"status_message": "the outcome of the create was not recorded"})


def _unknown(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if instance is not None:
        yield Adopt(lease, instance.id)
    elif _over(lease, owner, scene.now):
        yield _release(lease, owner.unwanted_because, scene.now)
    else:
        yield from absence(lease, scene)


def _rented(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if instance is not None and (facts := _news(lease, instance, scene.now)):
        yield Note(lease, facts)
    reason = _release_reason(lease, owner, instance, scene)
    if reason == NOT_READY and instance is not None:
        yield _release(lease, reason, scene.now, status_message=f"{NEVER_READY}: {_words(instance)}")
    elif reason:
        yield _release(lease, reason, scene.now)
    elif instance is not None:
        yield from _around_boot(lease, instance, scene.now)
        yield from _progress(lease, instance, scene)
        yield from _stopping(lease, instance, scene)
    elif scene.listing is not None:
        yield from _missing(lease, scene.listing, scene)


def _progress(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    if lease.ready_at is None and objection(lease, instance) and not _doubted_enough(lease, scene):
        return  # the first descriptions of a new machine may be wrong
    if instance.status is InstanceStatus.STOPPED and lease.state is not LeaseState.PARKED:
        yield Advance(lease, LeaseEvent.PARKED, {"faltered_at": None})
    elif lease.state is LeaseState.PARKED and _wakes(lease, instance):
        yield Advance(lease, LeaseEvent.WOKEN)
    elif lease.state is LeaseState.ACTIVE and instance.status in _FALTERING:
        yield Advance(lease, LeaseEvent.FALTERED, {"faltered_at": scene.now})
    elif instance.status is InstanceStatus.RUNNING and lease.state is LeaseState.STARTING:
        yield from _readiness(lease, instance, scene)


def _readiness(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    """The step that finds out whether callers can get into a running machine."""
    owner = scene.owners[lease.owner_id]
    overdue = ready_is_overdue(lease, owner, scene.listing)
    if lease.keys_state == "pending" and not overdue:
        return  # nobody can log in before the marketplace has the keys, or has refused them
    if runs_unprobed(lease, instance, scene.capabilities):
        facts = {"ready_at": lease.ready_at or scene.now, "faltered_at": None, "ready_evidence": RUNNING}
        yield Advance(lease, LeaseEvent.READY, facts)
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
    return overdue if lease.ready_at is None else lease.ready_evidence.startswith("port")


def _around_boot(lease: Lease, instance: ListedInstance, now: datetime) -> Iterator[Step]:
    """Steps for the SSH keys and the boot script of a machine. A report also tells why a machine does not get ready."""
    runs = instance.status is InstanceStatus.RUNNING
    if lease.keys_state in ("pending", "unregistered") and (runs or instance.status is InstanceStatus.PENDING):
        yield RegisterKeys(lease, runs)
    slow = lease.started_at is not None and now - lease.started_at >= _SLOW_BOOT
    if (lease.state is LeaseState.ACTIVE or (runs and slow)) and any(part[1] == BOOT_REQUESTED for part in lease.boot):
        yield ReadBoot(lease)


def _wakes(lease: Lease, instance: ListedInstance) -> bool:
    """True when a stopped machine is starting. One that boots although it is to be stopped will be stopped again."""
    booting = instance.status is InstanceStatus.PENDING and lease.stop_at is None
    return booting or instance.status is InstanceStatus.RUNNING


def _stopping(lease: Lease, instance: ListedInstance, scene: Scene) -> Iterator[Step]:
    """Stop a machine that its owner has stopped, and one that started again above its price ceiling.

    The latter is stopped and not released, because its data may be worth more than its price.
    """
    if instance.status not in (InstanceStatus.RUNNING, InstanceStatus.PENDING):
        return
    woken = lease.state is LeaseState.PARKED or (lease.state is LeaseState.STARTING and lease.ready_at is not None)
    if woken and lease.stop_at is None and instance.price is not None and instance.price > lease.ceiling:
        yield Note(lease, {"stop_at": scene.now})
        yield Stop(lease)
    elif lease.stop_at is not None and lease.stop_at <= scene.now:
        yield Stop(lease)


def _missing(lease: Lease, listing: Listing, scene: Scene) -> Iterator[Step]:
    if not _could_be_shown(lease, listing, scene):
        return
    if lease.missing_since is None:
        yield Note(lease, {"missing_since": scene.now})
    elif scene.now - lease.missing_since >= timedelta(seconds=scene.limits.gone_after):
        yield Confirm(lease, alone=bool(listing.unreadable))


def _releasing(lease: Lease, instance: ListedInstance | None, scene: Scene) -> Iterator[Step]:
    if lease.instance_id is None:
        if instance is not None:
            yield Advance(
                lease,
                LeaseEvent.FOUND,
                {
                    "instance_id": instance.id,
                    "started_at": scene.now,
                    "seen_at": scene.now,
                    "destroy_at": scene.now,
                    "absent_checks": 0,
                },
            )
        elif lease.call_started_at is not None:
            yield from absence(lease, scene)
        return
    due = lease.destroy_at is None or lease.destroy_at <= scene.now
    if scene.listing is not None and instance is None and _could_be_shown(lease, scene.listing, scene):
        yield from _going(lease, scene.listing, scene)
    if due:
        yield Destroy(lease)
    if instance is not None and not _is_older(scene.listing, lease) and (facts := _news(lease, instance, scene.now)):
        yield Note(lease, facts)


def _is_older(listing: Listing | None, lease: Lease) -> bool:
    """Whether a listing began before the provider answered that there is no such instance."""
    return lease.gone_said_at is not None and (listing is None or listing.began_at <= lease.gone_said_at)


def _going(lease: Lease, listing: Listing, scene: Scene) -> Iterator[Step]:
    """Steps for a destroyed machine that is no longer listed. It is proven gone in one of two ways.

    1. A read of the machine answers that it does not exist.
    2. A destroy was accepted, and as many believable listings as prove an absence do not show the machine. A listing is
       believable after the destroy was answered with "no such instance", or when it shows another machine that is known
       to be alive, or while the account's credit does not change.
    """
    if lease.destroy_tries == 0:
        return
    yield Confirm(lease, alone=bool(listing.unreadable))
    if listing.unreadable or lease.destroy_taken_at is None or listing.began_at <= lease.destroy_taken_at:
        return
    said_gone = lease.gone_said_at is not None and listing.began_at > lease.gone_said_at
    if not (said_gone or has_canary(scene) or scene.credit_unchanged):
        return
    if lease.absent_checked_at is None or listing.began_at >= lease.absent_checked_at + LISTINGS_APART:
        checks = lease.absent_checks + 1
        facts = {"absent_checks": checks, "absent_checked_at": listing.began_at}
        enough = checks >= ABSENT_LISTINGS
        yield Advance(lease, LeaseEvent.GONE, facts) if enough else Note(lease, facts)


def _could_be_shown(lease: Lease, listing: Listing, scene: Scene) -> bool:
    """Whether the listing would show the instance if it existed. New instances may be missing for a while."""
    if lease.started_at is None or listing.began_at <= lease.started_at:
        return False
    if lease.seen_at is not None:
        return True
    return listing.began_at - lease.started_at >= timedelta(seconds=scene.capabilities.listing_lag_seconds)


def _release_reason(lease: Lease, owner: Owner, instance: ListedInstance | None, scene: Scene) -> str:
    """Why the machine must be released; "" when it must not."""
    if _over(lease, owner, scene.now):
        return owner.closing or "EXPIRED"
    if instance is None:
        return ""
    unjudged = lease.ready_at is None or lease.priced_at is None  # the first listed price is the one that is checked
    if unjudged and instance.price is not None and instance.price > lease.ceiling:
        return "PRICE_MOVED"
    if lease.ready_at is not None:
        return ""
    if _doubted_enough(lease, scene):
        reason = scene.doubts[lease.id].objection
        if reason == WRONG_GPU or _replaced(lease, owner):
            return NOT_READY if reason == LATE else reason
    if _replaced(lease, owner) and ready_is_overdue(lease, owner, scene.listing) and _silent(lease, scene):
        return NOT_READY
    return ""


def _replaced(lease: Lease, owner: Owner) -> bool:
    """True if the machine is to be released when it does not get ready. It is not if it was ready once."""
    return lease.state is LeaseState.STARTING and owner.replace_unready and lease.ready_at is None


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
    return bool(owner.closing) or (lease.expires_at is not None and now >= lease.expires_at)


def _overdue(lease: Lease, scene: Scene) -> bool:
    patience = timedelta(seconds=scene.limits.overdue_call)
    return lease.call_deadline is not None and scene.now >= lease.call_deadline + patience


_SLOW_BOOT = timedelta(minutes=3)
"""After this time, the report of a running machine is read although the machine is not ready."""
_FALTERING = frozenset({InstanceStatus.PENDING, InstanceStatus.BROKEN, InstanceStatus.OFFLINE})
"""Statuses in which an active machine no longer counts as ready: the marketplace does not report it as running."""
_JUDGED = frozenset({NOT_READY, WRONG_GPU, HOST_BROKEN, IMAGE_UNUSABLE})
_BILLED = {
    InstanceStatus.PENDING: "disk",
    InstanceStatus.RUNNING: "all",
    InstanceStatus.STOPPED: "disk",
    InstanceStatus.BROKEN: "disk",
    InstanceStatus.OFFLINE: "nothing",
}
"""An unknown status does not change what is billed."""


def _news(lease: Lease, instance: ListedInstance, now: datetime) -> dict[str, Any]:
    """Facts in the listing that differ from the lease; empty when there are none."""
    facts = _facts(lease, instance, now)
    return facts if any(getattr(lease, name) != value for name, value in facts.items()) else {}


def _facts(lease: Lease, instance: ListedInstance, now: datetime) -> dict[str, Any]:
    ssh = ssh_address(lease, instance)
    contract_ends_at = instance.ends_at or lease.contract_ends_at
    too_soon = contracts.ends_too_soon(contract_ends_at, lease.expires_at, now)
    judged = lease.reason in _JUDGED  # then the status message that explains the reason is kept
    return {
        "seen_at": lease.seen_at or now,
        "priced_at": lease.priced_at or (None if instance.price is None else now),
        "billed": _BILLED.get(instance.status, lease.billed),
        "price": lease.price if instance.price is None else instance.price,
        "disk_price": lease.disk_price if instance.stopped_price is None else instance.stopped_price,
        "status_message": lease.status_message if judged else _words(instance),
        "ssh_host": ssh.host,
        "ssh_port": ssh.port,
        "ports": instance.ports or lease.ports,
        "missing_since": None,
        "contract_ends_at": contract_ends_at,
        "contract_warned_at": (lease.contract_warned_at or now) if too_soon else None,
        **({"gone_said_at": None, "absent_checks": 0} if lease.gone_said_at or lease.absent_checks else {}),
    }


def _words(instance: ListedInstance) -> str:
    """The marketplace's own words. A broken or offline machine's message may be old, so its raw status comes first."""
    if instance.status in (InstanceStatus.BROKEN, InstanceStatus.OFFLINE) and instance.status_message:
        return f"{instance.raw_status}: {instance.status_message}"
    return instance.status_message or instance.raw_status


def _release(lease: Lease, reason: str, now: datetime, **facts: Any) -> Advance:
    return Advance(lease, LeaseEvent.RELEASE, {"reason": reason, "destroy_at": now, **facts})
