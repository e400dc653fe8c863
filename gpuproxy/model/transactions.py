"""Costs as a list of transactions: each meter is split at every full hour (UTC) and at its end.

Transactions are not stored; they are computed from the meters, always with the same result. The parts of a meter add
up exactly to the meter. What is paid in advance has no meter: each booking and each refund is a transaction. If the
marketplace charged another amount, the difference is an adjustment.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice

from gpuproxy.model.bookings import BookingLine
from gpuproxy.model.leases import InstanceId, LeaseId, ReservationId
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import ProviderName

CORRECTED_FOR = timedelta(days=14)
"""The time after a machine's end in which its cost may be corrected to the marketplace's charge."""
KEPT_AT_LEAST = CORRECTED_FOR + timedelta(days=1)
"""The shortest time for which the records of a finished reservation can be kept."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """A period in which the hourly cost of a lease was constant. `closed_at` is None while it runs."""

    lease_id: LeaseId
    reservation_id: ReservationId
    provider: ProviderName
    instance_id: InstanceId
    gpu_model: str
    num_gpus: int
    storage: bool
    """True: only the disk is billed, because the machine isn't running yet or is stopped."""
    rate: Micro
    opened_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """The cost of a meter within one hour. While it is `pending`, it already has its final id."""

    meter: Meter
    started_at: datetime
    ended_at: datetime
    amount: Micro
    pending: bool

    @property
    def id(self) -> str:
        """A unique id that is the same each time."""
        return f"{self.meter.lease_id.replace('lease-', 'txn-', 1)}-{self.started_at:%Y%m%dT%H%M%S.%f}"

    @property
    def gpu_hours(self) -> float:
        """The GPU-hours of this part; 0.0 if only the disk is billed."""
        return 0.0 if self.meter.storage else self.meter.num_gpus * ((self.ended_at - self.started_at) / _HOUR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """The difference between the marketplace's charge for an ended machine and its meters."""

    lease_id: LeaseId
    reservation_id: ReservationId
    provider: ProviderName
    instance_id: InstanceId
    at: datetime
    charged: Micro
    metered: Micro
    amount: Micro
    """The change by this reading in micro-dollars; negative if less was charged than recorded so far."""

    @property
    def id(self) -> str:
        """A unique id for each reading with a change."""
        return f"{self.lease_id.replace('lease-', 'txn-', 1)}-adjustment-{self.at:%Y%m%dT%H%M%S}"


Entry = Transaction | BookingLine | Adjustment


def newest(
    meters: Iterable[Meter], others: Iterable[BookingLine | Adjustment], now: datetime, offset: int, limit: int
) -> list[Entry]:
    """At most `limit` transactions after the first `offset`, newest first."""
    lists: list[Iterable[Entry]] = [_parts(meter, now) for meter in meters]
    ordered = merge(sorted(others, key=_newest_first), *lists, key=_newest_first)
    return list(islice(ordered, offset, offset + limit))


def count(meter: Meter, now: datetime) -> int:
    """The number of transactions of a meter."""
    end = _end(meter, now)
    return 0 if end <= meter.opened_at else (_hour_before(end) - _hour(meter.opened_at)) // _HOUR + 1


def _parts(meter: Meter, now: datetime) -> Iterator[Transaction]:
    end = _end(meter, now)
    pending = meter.closed_at is None
    while end > meter.opened_at:
        start = max(meter.opened_at, _hour_before(end))
        amount = accrued(meter.rate, end - meter.opened_at) - accrued(meter.rate, start - meter.opened_at)
        yield Transaction(meter=meter, started_at=start, ended_at=end, amount=Micro(amount), pending=pending)
        end, pending = start, False


def _end(meter: Meter, now: datetime) -> datetime:
    return now if meter.closed_at is None else meter.closed_at


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _hour_before(end: datetime) -> datetime:
    """The last full hour before `end`."""
    return _hour(end - timedelta(microseconds=1))


def _newest_first(transaction: Entry) -> tuple[float, str, float]:
    if isinstance(transaction, BookingLine):
        return -transaction.at.timestamp(), transaction.lease_id, float(-transaction.number)
    if isinstance(transaction, Adjustment):
        return -transaction.at.timestamp(), transaction.lease_id, -transaction.at.timestamp()
    return -transaction.ended_at.timestamp(), transaction.meter.lease_id, -transaction.started_at.timestamp()
