"""What happened, in one order for everything: each event of a lease, and each change of what a reservation shows.

Only ever appended to. Its sequence is what watchers resume by.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuproxy.model.leases import InstanceId, Lease, LeaseId, LeaseState, ReservationId
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

_NO_LEASE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTold:
    """A lease's state from this event on."""

    seq: int
    at: datetime
    lease_id: LeaseId
    state: LeaseState
    reason: str
    instance_id: InstanceId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationTold:
    """What a reservation says of itself from this event on."""

    seq: int
    settled: bool
    closing: str
    expires_at: datetime | None


Told = LeaseTold | ReservationTold


def of_lease(tx: Tx, lease: Lease, event: str, data: Mapping[str, str | int | None]) -> None:
    """An event of the lease, which is given as it is now."""
    told = json.dumps({name: value for name, value in data.items() if value})
    _append(tx, lease.project, lease.reservation_id, (lease.id, event, lease.state.value, told))


def of_reservation(tx: Tx, reservation: Reservation) -> None:
    """Something that the reservation shows has changed, of itself or of one of its machines."""
    expires_at = None if reservation.expires_at is None else micros(reservation.expires_at)
    told = {"settled": reservation.settled_at is not None, "closing": reservation.closing, "expires_at": expires_at}
    _append(tx, reservation.project, reservation.id, (_NO_LEASE, "changed", reservation.state.value, json.dumps(told)))


def history(tx: Tx, reservation_id: ReservationId) -> tuple[Told, ...]:
    """All of a reservation's events, in order."""
    rows = tx.fetch(
        "SELECT seq, at, lease_id, state, data FROM events WHERE reservation_id = ? ORDER BY seq", (reservation_id,)
    )
    return tuple(_told(row) for row in rows)


def first_at(tx: Tx, lease: Lease, event: str) -> datetime | None:
    """When an event first happened to a lease."""
    row = tx.fetch_one(
        "SELECT min(at) AS at FROM events WHERE reservation_id = ? AND lease_id = ? AND event = ?",
        (lease.reservation_id, lease.id, event),
    )
    return None if row is None or row["at"] is None else moment(row["at"])


def newest(tx: Tx, reservation_id: ReservationId) -> int:
    """The sequence of a reservation's last event; 0 when it has none."""
    row = tx.fetch_one("SELECT max(seq) AS seq FROM events WHERE reservation_id = ?", (reservation_id,))
    return 0 if row is None or row["seq"] is None else int(row["seq"])


def _told(row: Mapping[str, Any]) -> Told:
    data = json.loads(row["data"])
    if row["lease_id"] == _NO_LEASE:
        expires_at = None if data["expires_at"] is None else moment(data["expires_at"])
        return ReservationTold(seq=row["seq"], settled=data["settled"], closing=data["closing"], expires_at=expires_at)
    return LeaseTold(
        seq=row["seq"],
        at=moment(row["at"]),
        lease_id=LeaseId(row["lease_id"]),
        state=LeaseState(row["state"]),
        reason=data.get("reason", ""),
        instance_id=data.get("instance_id"),
    )


def _append(tx: Tx, project: str, reservation_id: ReservationId, told: tuple[str, str, str, str]) -> None:
    tx.execute(
        "INSERT INTO events (seq, at, project, reservation_id, lease_id, event, state, data) "
        "SELECT coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM events",
        (micros(tx.now()), project, reservation_id, *told),
    )
