"""Conversion between rows and values. Only this module knows how values are encoded in columns."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Any

from gpuproxy.model.leases import (
    LIVE,
    Creation,
    Lease,
    LeaseState,
    Observed,
    Offered,
    Pending,
    PortMapping,
    Prepaid,
)
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Decision, Failure, Pick, Reservation, ReservationState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
Row = Lease | Offered | Creation | Observed | Pending | Prepaid | Reservation
LEASE_PARTS: dict[str, type[Offered | Creation | Observed | Pending | Prepaid]] = {
    "offered": Offered, "creation": Creation, "observed": Observed, "pending": Pending, "prepaid": Prepaid,
}  # fmt: skip

LIVE_SQL = str(tuple(state.value for state in LeaseState if state in LIVE))
"""The live states, written exactly as in the index of live leases: SQLite uses the index only for this text."""


def micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """The aware UTC time of microseconds since 1970; the inverse of `micros`."""
    return _EPOCH + timedelta(microseconds=value)


def lease_from(row: Mapping[str, Any]) -> Lease:
    """The lease in a row of `leases`."""
    return _lease(_lease_values(row))


@lru_cache(maxsize=1024)
def _lease(values: tuple[Any, ...]) -> Lease:
    """A lease is immutable, and most are read again and again: each pass over an account reads all of its leases."""
    row = dict(zip(_LEASE_NAMES, values, strict=True))
    return Lease(
        **_values(Lease, row),
        offered=Offered(**_values(Offered, row)),
        creation=Creation(**_values(Creation, row)),
        observed=Observed(**_values(Observed, row)),
        pending=Pending(**_values(Pending, row)),
        prepaid=Prepaid(**_values(Prepaid, row)),
    )


def reservation_from(row: Mapping[str, Any]) -> Reservation:
    """The reservation in a row of `reservations`."""
    return _reservation(_reservation_values(row))


@lru_cache(maxsize=1024)
def _reservation(values: tuple[Any, ...]) -> Reservation:
    return Reservation(**_values(Reservation, dict(zip(_FIELDS[Reservation], values, strict=True))))


def lease_columns(lease: Lease) -> dict[str, Any]:
    """All columns of a lease's row, by name. The fields of its parts are columns of the same table."""
    row = _columns(lease)
    for part in LEASE_PARTS:
        row |= _columns(getattr(lease, part))
    return row


def lease_changes(old: Lease, new: Lease) -> dict[str, Any]:
    """The columns in which two versions of a lease differ, with the new values."""
    found = _changes(old, new)
    for part in LEASE_PARTS:
        before, now = getattr(old, part), getattr(new, part)
        if before is not now:
            found |= _changes(before, now)
    return found


def reservation_columns(reservation: Reservation) -> dict[str, Any]:
    """All columns of a reservation's row, by name."""
    return _columns(reservation)


def reservation_changes(old: Reservation, new: Reservation) -> dict[str, Any]:
    """The columns in which two versions of a reservation differ, with the new values."""
    return _changes(old, new)


def stored(value: object) -> Any:
    """One value as it is encoded in its column."""
    if isinstance(value, datetime):
        return micros(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool):
        return int(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return json.dumps(dataclasses.asdict(value))
    if isinstance(value, tuple):
        return json.dumps([dataclasses.asdict(v) if isinstance(v, PortMapping) else v for v in value])
    return value


def _columns(value: Row) -> dict[str, Any]:
    return {name: stored(getattr(value, name)) for name in _FIELDS[type(value)]}


def _changes(old: Row, new: Row) -> dict[str, Any]:
    return {name: stored(getattr(new, name)) for name in _FIELDS[type(new)] if getattr(new, name) != getattr(old, name)}


def _values(kind: type[Row], row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a value as they are encoded in a row."""
    values = {name: row[name] for name in _FIELDS[kind]}
    for name, reader in _READERS[kind].items():
        if (raw := values[name]) is not None:
            values[name] = reader(raw)
    return values


# An event of a lease re-reads its siblings and its reservation, so parsed immutable values are cached.


@lru_cache(maxsize=1024)
def _strings(raw: str) -> tuple[str, ...]:
    return tuple(json.loads(raw))


@lru_cache(maxsize=1024)
def _numbers(raw: str) -> tuple[int, ...]:
    return tuple(json.loads(raw))


@lru_cache(maxsize=1024)
def _pairs(raw: str) -> tuple[tuple[str, Any], ...]:
    return tuple((key, value) for key, value in json.loads(raw))


@lru_cache(maxsize=1024)
def _ports(raw: str) -> tuple[PortMapping, ...]:
    return tuple(PortMapping(**mapping) for mapping in json.loads(raw))


def _failure(raw: str) -> Failure:
    data = json.loads(raw)
    return Failure(reason=Reason(data["reason"]), message=data["message"], metadata=tuple(map(tuple, data["metadata"])))


@lru_cache(maxsize=64)
def _decision(raw: str) -> Decision:
    data = json.loads(raw)
    return Decision(
        **{
            **data,
            "rejected": tuple((rule, count) for rule, count in data["rejected"]),
            "sizes": tuple(data["sizes"]),
            "notes": tuple(data.get("notes", ())),
            "picks": tuple(Pick(**pick) for pick in data["picks"]),
            "top": tuple(Pick(**pick) for pick in data["top"]),
        }
    )


_Reader = Callable[[Any], Any]
_READERS: dict[type, dict[str, _Reader]] = {
    Lease: {
        "state": LeaseState,
        "reason": Reason,
        **dict.fromkeys(("created_at", "started_at", "ended_at", "expires_at"), moment),
    },
    Offered: {"conflict_keys": _strings, "verified": bool, "extras": _pairs},
    Creation: {
        "asked_ports": _numbers, "ssh_keys": _strings, **dict.fromkeys(("call_started_at", "call_deadline"), moment),
    },
    Observed: {
        "ports": _ports,
        "boot": _pairs,
        **dict.fromkeys(
            ("seen_at", "priced_at", "ready_at", "faltered_at", "contract_ends_at", "contract_warned_at",
             "ending_soon_at", "idle_since", "idle_notice_at"),
            moment,
        ),
    },
    Pending: {
        "keeps_gpus": bool,
        **dict.fromkeys(
            ("missing_since", "absent_checked_at", "destroy_at", "destroy_taken_at", "gone_said_at", "stop_at",
             "new_end", "new_end_until"),
            moment,
        ),
    },
    Prepaid: dict.fromkeys(("booked_until", "booking_read_at", "extend_at"), moment),
    Reservation: {
        "labels": _pairs,
        "keep": bool,
        "replace_unready": bool,
        "failure": _failure,
        "decision": _decision,
        "state": ReservationState,
        "closing": Reason,
        "stopped": Reason,
        **dict.fromkeys(("created_at", "expires_at", "settled_at", "answered_at"), moment),
    },
}  # fmt: skip
_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in dataclasses.fields(kind) if field.name not in LEASE_PARTS) for kind in _READERS
}
_LEASE_NAMES = tuple(name for kind in (Lease, *LEASE_PARTS.values()) for name in _FIELDS[kind])
_lease_values = itemgetter(*_LEASE_NAMES)
LEASE_COLUMNS = ", ".join(_LEASE_NAMES)
RESERVATION_COLUMNS = ", ".join(_FIELDS[Reservation])
_reservation_values = itemgetter(*_FIELDS[Reservation])
