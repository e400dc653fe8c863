"""Record the outcomes of calls to marketplaces. Parts of a unit of work.

A function that takes a lease id reads the lease again, because it may have changed since the call was sent. A function
that takes a lease expects it as read in the same unit of work. So no write conflicts. A known instance id is never
dropped: if the lease had already ended, it returns to `releasing`.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from gpuproxy.model import lease_events
from gpuproxy.model.bookings import HOUR
from gpuproxy.model.errors import NoCapacity, RateLimited, Refused, Scope, TooSoon
from gpuproxy.model.lease_events import (
    Created,
    Deferred,
    Found,
    NotAttempted,
    Reappeared,
    RefusedLate,
    Release,
    ReplyLost,
)
from gpuproxy.model.lease_facts import Booted, CallStarted, Suspected
from gpuproxy.model.leases import (
    LIVE,
    NO_ROOM,
    RENTED,
    TERMINAL,
    Billed,
    Creation,
    InstanceId,
    Lease,
    LeaseId,
    LeaseKind,
    LeaseState,
    Observed,
    Offered,
    Prepaid,
    ReservationId,
)
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey, HostKey, OfferId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes.sweep import Stray
from gpuproxy.ports import InstanceStatus, Receipt, Tx
from gpuproxy.store import account_problems, exhausted, forgotten, leases, owners, pace, reservations, rotations

log = structlog.get_logger(__name__)

ORPHANS = ReservationId("res-orphans")
_PAUSE = timedelta(minutes=3)
"""How long an account is paused after it was the reason for a refused create."""


def start_ahead(tx: Tx, lease: Lease) -> None:
    """Say that `call_started` will be called for this lease: what it needs is then read at once."""
    leases.ahead(tx, lease.id)
    account_problems.ahead(tx)
    pace.ahead(tx, (lease.provider, lease.account))


def call_started(
    tx: Tx,
    lease_id: LeaseId,
    patience: timedelta,
    latest: datetime,
    interval: float,
    *,
    require: Callable[[Tx], None],
    shared: bool = False,
) -> bool:
    """Record that the create is about to be sent. False when it must not be sent any more.

    `patience`: how long the call may take. `latest`: the last time at which the create may be sent. `interval`:
    the seconds until the account's next create. `require` raises ClaimLost if another process rents for the owner.
    `shared`: other processes send creates with the account too. Then this raises TooSoon if it is not its turn yet.
    """
    require(tx)
    lease = leases.get(tx, lease_id)
    if lease.state is not LeaseState.REQUESTED:
        not_attempted(tx, lease_id)
        return False
    if tx.now() > latest:
        not_attempted(tx, lease_id)
        return False
    if lease.expires_at is not None and lease.expires_at <= tx.now():
        leases.advance(tx, lease, NotAttempted(Reason.EXPIRED))
        return False
    paused = account_problems.paused(tx).get((lease.provider, lease.account))
    if paused is not None:  # another create of the account was refused since the intent, as this one would be
        # The marketplace's words are left out: they were about another project's create.
        leases.advance(tx, lease, NotAttempted(paused.reason))
        return False
    account = (lease.provider, lease.account)
    if shared and (early := (pace.next_create_at(tx, account) - tx.now()).total_seconds()) > 0:
        raise TooSoon(early)
    leases.note(tx, lease, CallStarted(tx.now(), tx.now() + patience))
    pace.hold(tx, account, tx.now() + timedelta(seconds=interval))
    return True


def deferred(tx: Tx, lease_id: LeaseId, limited: RateLimited, until: datetime) -> bool:
    """Record that the create was rate limited. True when the lease waits for another turn."""
    lease = leases.get(tx, lease_id)
    pace.hold(tx, (lease.provider, lease.account), until)
    if lease.state is not LeaseState.REQUESTED:
        refused(tx, lease_id, limited)
        return False
    message = f"waiting: {lease.provider} wants fewer creates; the next one may be sent at {until:%H:%M:%SZ}"
    leases.advance(tx, lease, Deferred(message))
    return True


def created(tx: Tx, lease_id: LeaseId, receipt: Receipt) -> Lease:
    """Record that the instance was created."""
    lease = leases.get(tx, lease_id)
    if lease.instance_id == receipt.instance_id and lease.state in LIVE:
        return lease
    if lease.state in TERMINAL and not _is_anothers(tx, lease, receipt.instance_id):
        return leases.advance(tx, lease, Reappeared(tx.now(), receipt.instance_id))
    booked = Created(receipt.instance_id, tx.now(), receipt.paid, receipt.booked_until)
    adopted = adopt(tx, lease, booked)
    if not receipt.left_out or adopted.state not in RENTED:
        return adopted
    parts = ((part, NO_ROOM if part in receipt.left_out else word) for part, word in adopted.observed.boot)
    return leases.note(tx, adopted, Booted(tuple(parts)))


def found(tx: Tx, lease: Lease, instance_id: InstanceId) -> Lease:
    """Record that a listing shows the lease's machine."""
    return adopt(tx, lease, Found(instance_id, tx.now()))


def adopt(tx: Tx, lease: Lease, event: Created) -> Lease:
    """Record the instance as the lease's machine. If its owner does not want it any more, it is released at once.

    If another lease has had this contract id, nobody can say whose machine it is. Then the outcome stays unknown.
    """
    now = tx.now()
    if _is_anothers(tx, lease, event.instance_id):
        return _stays_unknown(tx, lease, event.instance_id)
    lease = leases.advance(tx, lease, event)
    owner = owners.of(tx, lease)
    if lease.state in RENTED and not owner.wants(now):
        return release(tx, lease, owner.unwanted_because)
    return lease


def _is_anothers(tx: Tx, lease: Lease, instance_id: InstanceId) -> bool:
    known = leases.by_instance(tx, lease.provider, instance_id)
    return known is not None and known.id != lease.id


def _stays_unknown(tx: Tx, lease: Lease, instance_id: InstanceId) -> Lease:
    """Record that the marketplace names a contract id that another lease has. It is logged once."""
    text = f"the marketplace names contract {instance_id}, which another lease has: look for {lease.label} there"
    if lease.observed.status_message == text or lease.state in TERMINAL:
        return lease
    told = {"lease": lease.id, "contract": instance_id, "provider": lease.provider, "account": lease.account}
    tx.after_commit(lambda: log.error("contract_of_another_lease", **told))
    if lease.state is not LeaseState.REQUESTED:
        return leases.note(tx, lease, Suspected(text))
    if lease.creation.call_started_at is None:  # it seemed to be rate limited but was executed: it is not sent again
        lease = leases.note(tx, lease, CallStarted(tx.now(), tx.now()))
    return leases.advance(tx, lease, ReplyLost(text, tx.now()))


def refused(tx: Tx, lease_id: LeaseId, refusal: Refused) -> Lease:
    """Record that the create was refused: nothing was created.

    A process that was suspended may record this after the call was recorded as unknown. The refusal is valid even then.
    """
    lease = leases.get(tx, lease_id)
    if isinstance(refusal, NoCapacity) and lease.kind == "machine":
        exhausted.note(tx, lease, refusal.scope)
    if refusal.reason in account_problems.PAUSING:
        account_problems.record(tx, (lease.provider, lease.account), refusal, _PAUSE)
    if not (lease.state is LeaseState.REQUESTED or lease.outcome_unknown):
        return lease
    if owners.of(tx, lease).strategy == "equal_weighted":
        rotations.undo_pick(tx, "equal_weighted", lease.offered.host, lease.offered.num_gpus)
    event = RefusedLate if lease.state is LeaseState.UNKNOWN else lease_events.Refused
    return leases.advance(tx, lease, event(_reason(refusal), str(refusal)))


def _reason(refusal: Refused) -> Reason:
    """The reason constant that clients see. Refusals caused by the host have a constant of their own."""
    if refusal.scope is Scope.HOST and not isinstance(refusal, NoCapacity):
        return Reason.HOST_REFUSED
    return refusal.reason


def reply_lost(tx: Tx, lease_id: LeaseId, text: str, ended_at: datetime | None = None) -> Lease:
    """Record that the create has an unknown outcome: the instance may exist. `text` becomes the status message.

    `ended_at`: when the call ends at the latest; None: it has ended.
    """
    lease = leases.get(tx, lease_id)
    if lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING):
        return lease
    return leases.advance(tx, lease, ReplyLost(text, ended_at or tx.now()))


def not_attempted(tx: Tx, lease_id: LeaseId, reason: Reason = Reason.NOT_ATTEMPTED) -> None:
    """Record that the create was not sent and will not be."""
    lease = leases.get(tx, lease_id)
    if lease.creation.call_started_at is not None or lease.instance_id is not None:
        return
    if lease.state in (LeaseState.REQUESTED, LeaseState.RELEASING):
        leases.advance(tx, lease, NotAttempted(reason))


def releasable(lease: Lease) -> bool:
    """False for a lease that is being released or has ended."""
    return lease.state in LIVE and lease.state is not LeaseState.RELEASING


def release(tx: Tx, lease: Lease, reason: Reason) -> Lease:
    """Release one machine. A lease that is being released or has ended stays as it is."""
    if not releasable(lease):
        return lease
    lease = leases.advance(tx, lease, Release(reason, tx.now()))
    if lease.creation.call_started_at is None and lease.instance_id is None:  # never sent, and now it will not be
        return leases.advance(tx, lease, NotAttempted())
    return lease


def release_stray(tx: Tx, stray: Stray, account: AccountKey, kind: LeaseKind = "machine") -> Lease | None:
    """Store a machine that should not exist as a lease that is being released. None if another pass has done so."""
    instance, lease = stray.instance, stray.lease
    known = leases.by_instance(tx, account[0], instance.id)  # a surplus machine or an orphan may reappear, too
    if known is None and stray.kind == "reappeared" and lease is not None:
        known = leases.find(tx, lease.id)
    if known is None:
        owner = lease.reservation_id if lease is not None else _orphans_reservation(tx)
        return _surplus(tx, stray, account, _known_again(tx, owner), kind)
    if known.state not in TERMINAL or known.instance_id not in (None, instance.id):
        return None
    return leases.advance(tx, known, Reappeared(tx.now(), instance.id, listed=True))


def _orphans_reservation(tx: Tx) -> ReservationId:
    """The id of the reservation that owns orphans. It is created with the first one."""
    if reservations.find(tx, ORPHANS) is None:
        reservations.insert(
            tx,
            Reservation(
                id=ORPHANS, project="system", request_id="", fingerprint="", count=0, least=0, keep=False,
                strategy="", labels=(), created_at=tx.now(), expires_at=None, version=1, replace_unready=False,
                ready_timeout_s=0.0, settled_at=tx.now(), answered_at=tx.now(), closing=Reason.ORPHAN,
                message="Machines with this deployment's label that the database did not know.",
            ),
        )  # fmt: skip
    return ORPHANS


def _known_again(tx: Tx, reservation_id: ReservationId) -> Reservation:
    """The reservation. If it was deleted because it ended long ago, it gets a new row without what is forgotten."""
    if (found := reservations.find(tx, reservation_id)) is not None:
        return found
    if (past := forgotten.take_back(tx, reservation_id)) is not None:
        reservations.insert(
            tx,
            Reservation(
                id=past.id, project=past.project, request_id=past.request_id, fingerprint=past.fingerprint, count=0,
                least=0, keep=False, strategy="", labels=(), created_at=past.created_at, expires_at=None, version=1,
                replace_unready=False, ready_timeout_s=0.0, settled_at=past.ended_at,
                answered_at=past.ended_at, closing=Reason.RELEASED,
            ),
        )  # fmt: skip
    return reservations.get(tx, reservation_id)


def _surplus(tx: Tx, stray: Stray, account: AccountKey, owner: Reservation, kind: LeaseKind) -> Lease:
    instance, now = stray.instance, tx.now()
    attempts = [lease.attempt for lease in leases.of_reservation(tx, owner.id)]
    row = Lease(
        id=LeaseId(f"{owner.id.replace('res-', 'lease-')}-{stray.kind}-{instance.id}"), reservation_id=owner.id,
        project=owner.project, attempt=max(attempts, default=0) + 1, provider=account[0], account=account[1],
        label=f"{instance.label}+{instance.id}", state=LeaseState.REQUESTED, version=1, created_at=now, kind=kind,
        offered=Offered(
            offer_id=OfferId(""), host=HostKey(f"{account[0]}/{instance.machine_id}"), conflict_keys=(),
            gpu_model=instance.gpu_model, num_gpus=instance.num_gpus, vram_gb=0, location="",
        ),
        creation=Creation(ceiling=Micro(0), call_started_at=now, call_deadline=now),
        observed=Observed(price=instance.price or Micro(0), disk_price=instance.stopped_price or Micro(0)),
        prepaid=_booked_by(stray, now),
    )  # fmt: skip
    leases.insert(tx, row)
    row = leases.advance(tx, row, Release(Reason[stray.kind.upper()], now))
    billed: Billed = "all" if instance.status is InstanceStatus.RUNNING else "disk"
    booking = instance.booking
    paid, until = (None, None) if booking is None else (booking.paid, booking.until)
    return leases.advance(tx, row, Found(instance.id, now, paid, until, billed))


def _booked_by(stray: Stray, now: datetime) -> Prepaid:
    """What is known of the booking of a machine that should not exist."""
    booking, lease = stray.instance.booking, stray.lease
    if booking is None:
        return Prepaid()
    hours = max(1, -((now - booking.until) // HOUR))  # rounded up
    return Prepaid(booked_hours=hours, refund_after=None if lease is None else lease.prepaid.refund_after)
