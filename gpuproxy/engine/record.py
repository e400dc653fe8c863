"""What came of a call, written into the books. Units of work: each re-reads the lease, so none can conflict.

An instance id that was learnt is never dropped: a lease that was over already comes back as `releasing`.
"""

from collections.abc import Sequence
from datetime import datetime

from gpuproxy.model.errors import Refused
from gpuproxy.model.leases import (
    LIVE,
    RENTED,
    TERMINAL,
    InstanceId,
    Lease,
    LeaseEvent,
    LeaseId,
    LeaseState,
    ReservationId,
)
from gpuproxy.model.reservations import NOT_ATTEMPTED, Reservation
from gpuproxy.ports import Capabilities, Receipt, Tx
from gpuproxy.store import leases, pace, reservations


def call_started(tx: Tx, lease_id: LeaseId, deadline: datetime) -> bool:
    """Committed just before the create is sent; False when the lease is not to be created any more."""
    lease = leases.get(tx, lease_id)
    if lease.state is not LeaseState.REQUESTED:
        if lease.state is LeaseState.RELEASING and lease.call_started_at is None:
            leases.advance(tx, lease, LeaseEvent.NOT_ATTEMPTED)
        return False
    leases.note(tx, lease, call_started_at=tx.now(), call_deadline=deadline)
    return True


def created(tx: Tx, lease_id: LeaseId, receipt: Receipt) -> Lease:
    """The provider says that the instance exists."""
    lease = leases.get(tx, lease_id)
    if lease.instance_id == receipt.instance_id and lease.state in LIVE:
        return lease
    event = LeaseEvent.REAPPEARED if lease.state in TERMINAL else LeaseEvent.CREATED
    return adopt(tx, lease, event, receipt.instance_id)


def adopt(tx: Tx, lease: Lease, event: LeaseEvent, instance_id: InstanceId) -> Lease:
    """The instance becomes the lease's; it is released at once when nobody wants it any more."""
    now = tx.now()
    lease = leases.advance(tx, lease, event, instance_id=instance_id, started_at=now, destroy_at=now)
    reservation = reservations.get(tx, lease.reservation_id)
    if lease.state in RENTED and not reservation.wants(now):
        return release(tx, lease, unwanted_because(reservation))
    return lease


def refused(tx: Tx, lease_id: LeaseId, refusal: Refused, retry_at: datetime | None) -> Lease:
    """Surely nothing was created; `retry_at` when the account must wait."""
    lease = leases.get(tx, lease_id)
    if retry_at is not None:
        pace.hold(tx, (lease.provider, lease.account), retry_at)
    return leases.advance(
        tx, lease, LeaseEvent.REFUSED, reason=lease.reason or refusal.reason, status_message=str(refusal)
    )


def reply_lost(tx: Tx, lease_id: LeaseId, said: str) -> Lease:
    """The instance may exist."""
    lease = leases.get(tx, lease_id)
    if lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING):
        return lease
    return leases.advance(tx, lease, LeaseEvent.REPLY_LOST, status_message=said)


def not_attempted(tx: Tx, lease_id: LeaseId, capabilities: Capabilities) -> None:
    """The create was not sent, and will not be."""
    lease = leases.get(tx, lease_id)
    if lease.state not in (LeaseState.REQUESTED, LeaseState.RELEASING) or lease.call_started_at is not None:
        return
    leases.advance(tx, lease, LeaseEvent.NOT_ATTEMPTED, reason=lease.reason or NOT_ATTEMPTED)
    pace.give_back(tx, (lease.provider, lease.account), capabilities.create_interval)


def release(tx: Tx, lease: Lease, reason: str) -> Lease:
    """Give one machine back; a lease that is on its way out, or over, stays as it is."""
    if lease.state not in LIVE or lease.state is LeaseState.RELEASING:
        return lease
    lease = leases.advance(tx, lease, LeaseEvent.RELEASE, reason=reason, destroy_at=tx.now())
    if lease.call_started_at is None:  # never sent, and now it will not be
        return leases.advance(tx, lease, LeaseEvent.NOT_ATTEMPTED)
    return lease


def close(tx: Tx, reservation_id: ReservationId, reason: str) -> Reservation:
    """Give everything of a reservation back, whatever still turns up included."""
    reservation = reservations.get(tx, reservation_id)
    if not reservation.closing:
        reservation = reservations.change(
            tx, reservation, leases.of_reservation(tx, reservation_id), closing=reason, settled_at=tx.now()
        )
    release_all(tx, leases.of_reservation(tx, reservation_id), reason)
    return reservations.get(tx, reservation_id)


def release_all(tx: Tx, rows: Sequence[Lease], reason: str) -> None:
    """Give machines back."""
    for lease in rows:
        release(tx, lease, reason)


def unwanted_because(reservation: Reservation) -> str:
    """Why a machine that turned up is given back."""
    if reservation.closing:
        return reservation.closing
    return "EXPIRED" if reservation.keep or reservation.answered_at is None else "CAME_TOO_LATE"
