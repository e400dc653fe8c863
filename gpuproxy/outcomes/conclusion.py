"""The end of renting for a reservation: with a verdict, or because it is being released. Parts of a unit of work.

A call that is answered, a call whose caller left, and a call whose process died all end in `conclude`.
"""

from dataclasses import replace

from gpuproxy.model.leases import LeaseState, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.outcomes import answers, record
from gpuproxy.outcomes.view import with_leases
from gpuproxy.ports import Tx
from gpuproxy.store import leases, reservations


def conclude(tx: Tx, reservation_id: ReservationId, *, gone: bool, queue_seconds: float = 0.0) -> None:
    """Rent no further machine: store the verdict, and release what it does not keep.

    `gone`: no caller waits for the answer. `queue_seconds`: the longest wait for a turn that exceeded the deadline, 0
    if there was none.
    """
    reservations.ahead(tx, reservation_id)
    for lease in leases.of_reservation(tx, reservation_id):
        if lease.state is LeaseState.REQUESTED and lease.creation.call_started_at is None:
            record.not_attempted(tx, lease.id)
    reservation, rows = with_leases(tx, reservation_id)
    verdict = answers.verdict(reservation, rows, gone=gone, queue_seconds=queue_seconds)
    concluded = replace(
        reservation,
        settled_at=reservation.settled_at or tx.now(),
        answered_at=tx.now(),
        message=verdict.message,
        failure=verdict.failure,
        request_id="" if verdict.retryable else reservation.request_id,
    )
    reservations.change(tx, reservation, concluded, rows)
    if verdict.closing:
        close(tx, reservation_id, verdict.closing)


def close(tx: Tx, reservation_id: ReservationId, reason: Reason) -> Reservation:
    """Release all machines of a reservation, also those that are found later."""
    reservation, rows = with_leases(tx, reservation_id)
    if not reservation.closing:
        closing = replace(reservation, closing=reason, settled_at=tx.now())
        reservations.change(tx, reservation, closing, rows)
    for lease in leases.of_reservation(tx, reservation_id):
        record.release(tx, lease, reason)
    return reservations.get(tx, reservation_id)
