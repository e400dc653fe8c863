"""Reservations: one row for each renting call whose intent was committed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpuproxy.model.demands import KEYED
from gpuproxy.model.errors import Conflict
from gpuproxy.model.leases import Lease, ReservationId
from gpuproxy.model.reservations import Reservation, ReservationState, derived_state, follows_leases
from gpuproxy.ports import Tx
from gpuproxy.store import events, outbox, totals
from gpuproxy.store.rows import RESERVATION_COLUMNS, reservation_changes, reservation_columns, reservation_from

_OVER = (ReservationState.RELEASED, ReservationState.FAILED)
_HAS_LABEL = (
    "EXISTS (SELECT 1 FROM json_each(labels) WHERE json_extract(value, '$[0]') = ? AND json_extract(value, '$[1]') = ?)"
)
_ONE = f"SELECT {RESERVATION_COLUMNS} FROM reservations WHERE id = ?"  # noqa: S608 - our own column names
_LARGEST = 2**63 - 1
Place = tuple[int, str]
"""The place of a reservation in a list, newest first: its negative time of creation in microseconds, and its id."""


def insert(tx: Tx, reservation: Reservation) -> None:
    """Insert a new reservation. Raises Taken (table `reservations`) if the request_id is in use."""
    row = reservation_columns(reservation)
    tx.write(
        f"INSERT INTO reservations ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})",  # noqa: S608
        list(row.values()),
    )
    events.of_reservation(tx, reservation)


def find(tx: Tx, reservation_id: ReservationId) -> Reservation | None:
    """The reservation with this id; None if there is none."""
    ahead(tx, reservation_id)  # several leases of a unit may ask for it
    row = tx.fetch_one(_ONE, (reservation_id,))
    return None if row is None else reservation_from(row)


def ahead(tx: Tx, reservation_id: ReservationId) -> None:
    """Say that the reservation will be read."""
    tx.ahead(_ONE, (reservation_id,))


def get(tx: Tx, reservation_id: ReservationId) -> Reservation:
    """The reservation with this id; raises Conflict if there is none."""
    found = find(tx, reservation_id)
    if found is None:
        raise Conflict(f"there is no reservation {reservation_id}")
    return found


def by_request(tx: Tx, project: str, request_id: str) -> Reservation | None:
    """The reservation of an earlier call with this request_id; None if there is none."""
    row = tx.fetch_one(
        f"SELECT {RESERVATION_COLUMNS} FROM reservations "  # noqa: S608
        "WHERE project = ? AND request_id = ? AND request_id <> ''",  # as the index says
        (project, request_id),
    )
    return None if row is None else reservation_from(row)


def has_keyed(tx: Tx) -> bool:
    """True if there is a reservation whose repeated call can be recognised only with the deployment's key."""
    keyed = f"request_id <> '' AND substr(fingerprint, 1, {len(KEYED)}) = '{KEYED}'"  # as the index has it
    return any(
        tx.fetch_one(f"SELECT 1 AS one FROM {table} WHERE {keyed} LIMIT 1") is not None  # noqa: S608
        for table in ("reservations", "forgotten_reservations")
    )


def unsettled(tx: Tx) -> tuple[Reservation, ...]:
    """Reservations whose call hasn't been concluded: it is running, or its server stopped."""
    rows = tx.fetch(f"SELECT {RESERVATION_COLUMNS} FROM reservations WHERE settled_at IS NULL")  # noqa: S608
    return tuple(reservation_from(row) for row in rows)


def newest(
    tx: Tx, project: str | None, state: str, labels: Mapping[str, str], *, after: Place | None, limit: int
) -> tuple[Reservation, ...]:
    """At most `limit` reservations of a project, or of all projects for None; newest first, those after a place.

    The state "" means any state. All of `labels` must match; they are compared one reservation after the other.
    """
    matching, values = _matching(project, state, labels)
    if after is not None:
        created_at = min(max(-after[0], -_LARGEST), _LARGEST)
        matching += ["created_at <= ?", "(created_at < ? OR id > ?)"]
        values += [created_at, created_at, after[1]]
    rows = tx.fetch(
        f"SELECT {RESERVATION_COLUMNS} FROM reservations WHERE {' AND '.join(matching)} "  # noqa: S608 - our own conditions
        "ORDER BY created_at DESC, id LIMIT ?",
        (*values, limit),
    )
    return tuple(reservation_from(row) for row in rows)


def count(tx: Tx, project: str | None, state: str, labels: Mapping[str, str]) -> int:
    """The number of all reservations that `newest` would show without a limit."""
    if not labels:
        return totals.reservations(tx, project, state)
    matching, values = _matching(project, state, labels)
    row = tx.fetch_one(f"SELECT count(*) AS n FROM reservations WHERE {' AND '.join(matching)}", values)  # noqa: S608
    return 0 if row is None else int(row["n"])


def _matching(project: str | None, state: str, labels: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    """The conditions of a list as SQL, and their values. Only those that are asked for, so that an index can serve."""
    conditions: list[str] = ["TRUE"]
    values: list[Any] = []
    for column, wanted in (("project", project), ("state", state or None)):
        if wanted is not None:
            conditions.append(f"{column} = ?")
            values.append(wanted)
    for label in labels.items():
        conditions.append(_HAS_LABEL)
        values += label
    return conditions, values


def change(tx: Tx, old: Reservation, new: Reservation, leases: Sequence[Lease]) -> Reservation:
    """Store the new version of a reservation with the state that its leases give it, and return it.

    Raises Conflict if the reservation has changed since `old` was read.
    """
    new = replace(new, state=derived_state(new, leases))
    if new == old:
        return old
    new = replace(new, version=old.version + 1)
    changes = reservation_changes(old, new)
    assignments = ", ".join(f"{name} = ?" for name in changes)
    tx.write(
        f"UPDATE reservations SET {assignments} WHERE id = ? AND version = ?",  # noqa: S608
        [*changes.values(), old.id, old.version],
        otherwise=Conflict(f"reservation {old.id} changed since version {old.version}"),
    )
    if new.state in _OVER and old.state not in _OVER:
        outbox.of_ended(tx, new, leases)
    if _shown(new) != _shown(old):
        events.of_reservation(tx, new)
    tx.changed(f"reservation:{old.id}")
    return new


def _shown(reservation: Reservation) -> tuple[object, ...]:
    """The fields whose change notifies watchers. The state isn't one: the events of the leases notify of it."""
    return reservation.closing, reservation.expires_at, reservation.settled_at is None, reservation.failure


def refresh(tx: Tx, reservation_id: ReservationId, leases: Callable[[], Sequence[Lease]]) -> Reservation:
    """Update the derived state of a reservation after a lease has changed. `leases` reads them, if they matter."""
    old = get(tx, reservation_id)
    return change(tx, old, old, leases() if follows_leases(old) else ())
