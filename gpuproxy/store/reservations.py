"""Reservations: one row for each renting call whose intent was committed."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from gpuproxy.model.demands import KEYED
from gpuproxy.model.errors import Conflict
from gpuproxy.model.leases import Lease, ReservationId
from gpuproxy.model.reservations import Reservation, derived_state
from gpuproxy.ports import Tx
from gpuproxy.store import events
from gpuproxy.store.rows import columns, reservation_from, stored

_COLUMNS = ", ".join(field.name for field in fields(Reservation))


def insert(tx: Tx, reservation: Reservation) -> None:
    """Insert a new reservation. Raises Taken (table `reservations`) if the request_id is in use."""
    row = columns(reservation)
    tx.execute(
        f"INSERT INTO reservations ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608
        list(row.values()),
    )
    events.of_reservation(tx, reservation)


def find(tx: Tx, reservation_id: ReservationId) -> Reservation | None:
    """The reservation with this id; None if there is none."""
    row = tx.fetch_one(f"SELECT {_COLUMNS} FROM reservations WHERE id = ?", (reservation_id,))  # noqa: S608
    return None if row is None else reservation_from(row)


def get(tx: Tx, reservation_id: ReservationId) -> Reservation:
    """The reservation with this id; raises Conflict if there is none."""
    found = find(tx, reservation_id)
    if found is None:
        raise Conflict(f"there is no reservation {reservation_id}")
    return found


def by_request(tx: Tx, project: str, request_id: str) -> Reservation | None:
    """The reservation of an earlier call with this request_id; None if there is none."""
    row = tx.fetch_one(
        f"SELECT {_COLUMNS} FROM reservations WHERE project = ? AND request_id = ?",  # noqa: S608
        (project, request_id),
    )
    return None if row is None else reservation_from(row)


def has_keyed(tx: Tx) -> bool:
    """True if there is a reservation whose repeated call can be recognised only with the deployment's key."""
    row = tx.fetch_one(
        "SELECT 1 AS one FROM reservations WHERE request_id <> '' AND substr(fingerprint, 1, ?) = ? LIMIT 1",
        (len(KEYED), KEYED),
    )
    return row is not None


def unsettled(tx: Tx) -> tuple[Reservation, ...]:
    """Reservations whose call hasn't been concluded: it is running, or its server stopped."""
    rows = tx.fetch(f"SELECT {_COLUMNS} FROM reservations WHERE settled_at IS NULL")  # noqa: S608
    return tuple(reservation_from(row) for row in rows)


def newest(tx: Tx, project: str | None, state: str) -> tuple[Reservation, ...]:
    """The reservations of a project, or of all projects for None; newest first. The state "" means any state."""
    rows = tx.fetch(
        f"SELECT {_COLUMNS} FROM reservations WHERE (? IS NULL OR project = ?) AND (? = '' OR state = ?) "  # noqa: S608
        "ORDER BY created_at DESC, id",
        (project, project, state, state),
    )
    return tuple(reservation_from(row) for row in rows)


def change(tx: Tx, reservation: Reservation, leases: Sequence[Lease], **facts: Any) -> Reservation:
    """Set the fields in `facts`, update the derived state, and return the new reservation.

    Raises Conflict if the reservation has changed since it was read.
    """
    new = replace(reservation, **facts)
    new = replace(new, state=derived_state(new, leases))
    if new == reservation:
        return reservation
    new = replace(new, version=reservation.version + 1)
    changes = {
        field.name: stored(getattr(new, field.name))
        for field in fields(Reservation)
        if getattr(new, field.name) != getattr(reservation, field.name)
    }
    assignments = ", ".join(f"{name} = ?" for name in changes)
    rows = tx.execute(
        f"UPDATE reservations SET {assignments} WHERE id = ? AND version = ?",  # noqa: S608
        [*changes.values(), reservation.id, reservation.version],
    )
    if rows == 0:
        raise Conflict(f"reservation {reservation.id} changed since version {reservation.version}")
    if _shown(new) != _shown(reservation):
        events.of_reservation(tx, new)
    tx.changed(f"reservation:{reservation.id}")
    return new


def _shown(reservation: Reservation) -> tuple[object, ...]:
    """The fields whose change notifies watchers. The state isn't one: the events of the leases notify of it."""
    return reservation.closing, reservation.expires_at, reservation.settled_at is None, reservation.failure


def refresh(tx: Tx, reservation_id: ReservationId, leases: Sequence[Lease]) -> Reservation:
    """Update the derived state of a reservation after a lease has changed."""
    return change(tx, get(tx, reservation_id), leases)
