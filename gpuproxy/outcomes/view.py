"""A reservation as clients see it: with its leases, their costs, and a message about its present state."""

from dataclasses import replace

from gpuproxy.model.leases import Lease, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation, ReservationView
from gpuproxy.outcomes import answers
from gpuproxy.ports import Tx
from gpuproxy.store import leases, reservations


def view(tx: Tx, reservation_id: ReservationId) -> ReservationView:
    """A reservation with its leases and their costs so far."""
    reservation, rows = with_leases(tx, reservation_id)
    told = with_message(reservation, rows)
    return ReservationView(reservation=told, leases=rows, costs=leases.costs(tx, rows), at=tx.now())


def with_message(reservation: Reservation, rows: tuple[Lease, ...]) -> Reservation:
    """The reservation with a message about its present state, unless it is still renting or was closed by an error."""
    if reservation.settled_at is None or reservation.closing not in ("", Reason.RELEASED):
        return reservation
    return replace(reservation, message=answers.message(reservation, rows))


def with_leases(tx: Tx, reservation_id: ReservationId) -> tuple[Reservation, tuple[Lease, ...]]:
    """A reservation and its leases, as they are stored."""
    leases.all_ahead(tx, reservation_id)
    return reservations.get(tx, reservation_id), leases.of_reservation(tx, reservation_id)
