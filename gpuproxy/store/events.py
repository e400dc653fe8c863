"""The event log: every event of a lease and every visible change of a reservation, in one sequence.

Events are only appended. Watchers resume after a sequence number.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuproxy.model.leases import InstanceId, Lease, LeaseEvent, LeaseId, LeaseState, ReservationId
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation, TimelineEntry
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

_NO_LEASE = ""
_STRAY = str((Reason.SURPLUS.value, Reason.ORPHAN.value, Reason.REAPPEARED.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """The state of a lease after an event."""

    seq: int
    at: datetime
    lease_id: LeaseId
    state: LeaseState
    reason: Reason
    instance_id: InstanceId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRecord:
    """The visible fields of a reservation after an event."""

    seq: int
    settled: bool
    closing: Reason
    expires_at: datetime | None


EventRecord = LeaseRecord | ReservationRecord


def of_lease(tx: Tx, lease: Lease, event: str, data: Mapping[str, str | int | None]) -> None:
    """Append an event of a lease; `lease` is its state after the event."""
    record = json.dumps({name: value for name, value in data.items() if value})
    _append(tx, lease.project, lease.reservation_id, (lease.id, event, lease.state.value, record))


def idle_notice(tx: Tx, reservation: Reservation, lease: Lease) -> None:
    """Append the notice that a machine of a reservation will be released because it is idle."""
    of_reservation(tx, reservation, "idle_notice", {"lease_id": lease.id, "instance_id": lease.instance_id or ""})


def of_reservation(
    tx: Tx, reservation: Reservation, event: str = "changed", more: Mapping[str, str] | None = None
) -> None:
    """Append a visible change of a reservation or of one of its machines. `more`: further facts of the event."""
    expires_at = None if reservation.expires_at is None else micros(reservation.expires_at)
    record = {"settled": reservation.settled_at is not None, "closing": reservation.closing, "expires_at": expires_at}
    row = (_NO_LEASE, event, reservation.state.value, json.dumps(record | dict(more or {})))
    _append(tx, reservation.project, reservation.id, row)


def history(tx: Tx, reservation_id: ReservationId) -> tuple[EventRecord, ...]:
    """All events of a reservation, in order."""
    rows = tx.fetch(
        "SELECT seq, at, lease_id, state, data FROM events WHERE reservation_id = ? ORDER BY seq", (reservation_id,)
    )
    return tuple(_record(row) for row in rows)


def newest_first(tx: Tx, reservation_id: ReservationId, limit: int) -> tuple[TimelineEntry, ...]:
    """The newest events of a reservation for people to read, newest first."""
    rows = tx.fetch(
        "SELECT seq, at, lease_id, event, state, data FROM events WHERE reservation_id = ? ORDER BY seq DESC LIMIT ?",
        (reservation_id, limit),
    )
    return tuple(_entry(row) for row in rows)


def first_at(tx: Tx, lease: Lease, event: str) -> datetime | None:
    """When an event first happened to a lease; None if never."""
    row = tx.fetch_one(
        "SELECT min(at) AS at FROM events WHERE reservation_id = ? AND lease_id = ? AND event = ?",
        (lease.reservation_id, lease.id, event),
    )
    return None if row is None or row["at"] is None else moment(row["at"])


def was_given_up(tx: Tx, lease_id: LeaseId) -> bool:
    """True for a surplus: its machine appeared after the lease had ended, or nothing that the database knew rented it.

    Such a second machine, or one without a lease, gets a lease of its own with one of the reasons `_STRAY`.
    """
    row = tx.fetch_one(
        f"SELECT 1 AS one FROM leases l WHERE l.id = ? AND (l.reason IN {_STRAY} OR EXISTS ("  # noqa: S608
        "SELECT 1 FROM events e WHERE e.reservation_id = l.reservation_id AND e.lease_id = l.id AND e.event = ?))",
        (lease_id, LeaseEvent.REAPPEARED.value),
    )
    return row is not None


def newest(tx: Tx, reservation_id: ReservationId) -> int:
    """The sequence number of a reservation's last event; 0 if it has none."""
    row = tx.fetch_one("SELECT max(seq) AS seq FROM events WHERE reservation_id = ?", (reservation_id,))
    return 0 if row is None or row["seq"] is None else int(row["seq"])


def _record(row: Mapping[str, Any]) -> EventRecord:
    data = json.loads(row["data"])
    if row["lease_id"] == _NO_LEASE:
        expires_at = None if data["expires_at"] is None else moment(data["expires_at"])
        return ReservationRecord(
            seq=row["seq"], settled=data["settled"], closing=Reason(data["closing"]), expires_at=expires_at
        )
    return LeaseRecord(
        seq=row["seq"],
        at=moment(row["at"]),
        lease_id=LeaseId(row["lease_id"]),
        state=LeaseState(row["state"]),
        reason=Reason(data.get("reason", "")),
        instance_id=data.get("instance_id"),
    )


def _entry(row: Mapping[str, Any]) -> TimelineEntry:
    data = json.loads(row["data"])
    expires_at = data.get("expires_at")
    return TimelineEntry(
        seq=row["seq"],
        at=moment(row["at"]),
        lease_id=row["lease_id"],
        event=row["event"],
        state=row["state"],
        reason=str(data.get("reason") or data.get("closing") or ""),
        instance_id=str(data.get("instance_id") or ""),
        expires_at=None if expires_at is None else moment(expires_at),
    )


def _append(tx: Tx, project: str, reservation_id: ReservationId, record: tuple[str, str, str, str]) -> None:
    tx.write(
        "INSERT INTO events (seq, at, project, reservation_id, lease_id, event, state, data) "
        "SELECT coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM events",
        (micros(tx.now()), project, reservation_id, *record),
    )
