"""Conversion between rows and values. Only this module knows how values are encoded in columns."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar

from gpuproxy.model.leases import LIVE, Lease, LeaseState, PortMapping
from gpuproxy.model.reservations import Decision, Failure, Pick, Reservation, ReservationState

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
V = TypeVar("V", Lease, Reservation)

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
    return _value(Lease, row)


def reservation_from(row: Mapping[str, Any]) -> Reservation:
    """The reservation in a row of `reservations`."""
    return _value(Reservation, row)


def columns(value: Lease | Reservation) -> dict[str, Any]:
    """All columns of a value's row, by name."""
    return {name: stored(getattr(value, name)) for name in _FIELDS[type(value)]}


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


def _names(kind: type[Lease] | type[Reservation]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _value(kind: type[V], row: Mapping[str, Any]) -> V:
    values = {name: row[name] for name in _FIELDS[kind]}
    for name, reader in _READERS[kind].items():
        if (raw := values[name]) is not None:
            values[name] = reader(raw)
    return kind(**values)


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
    return Failure(reason=data["reason"], message=data["message"], metadata=tuple(map(tuple, data["metadata"])))


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


_FIELDS: dict[type, tuple[str, ...]] = {Lease: _names(Lease), Reservation: _names(Reservation)}
_Reader = Callable[[Any], Any]
_READERS: dict[type, dict[str, _Reader]] = {
    Lease: {
        "conflict_keys": _strings,
        "state": LeaseState,
        "verified": bool,
        "ports": _ports,
        "extras": _pairs,
        "asked_ports": _numbers,
        "ssh_keys": _strings,
        "boot": _pairs,
        **dict.fromkeys(
            (
                "created_at", "call_started_at", "call_deadline", "started_at", "seen_at",
                "ready_at", "ended_at", "expires_at", "missing_since", "absent_checked_at",
                "destroy_at", "stop_at", "gone_said_at", "faltered_at", "priced_at",
                "destroy_taken_at", "contract_ends_at", "contract_warned_at",
            ),
            moment,
        ),
    },
    Reservation: {
        "labels": _pairs,
        "keep": bool,
        "replace_unready": bool,
        "failure": _failure,
        "decision": _decision,
        "state": ReservationState,
        **dict.fromkeys(("created_at", "expires_at", "settled_at", "answered_at"), moment),
    },
}  # fmt: skip
