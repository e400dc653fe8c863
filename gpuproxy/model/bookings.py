"""Time that is paid in advance: bookings, extensions, and what a destroy gives back. Pure.

The cost of a prepaid machine is its bookings minus its refunds. The marketplace ends the machine at the end of its
booking, so a machine that is wanted longer is extended in time. A listing never changes what is booked. Only reads of
the single machine do: one read that shows an open extension, or two reads that agree, some time apart.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from gpuproxy.model.leases import RENTED, InstanceId, Lease, LeaseId, Prepaid, ReservationId
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import ProviderName

HOUR = timedelta(hours=1)
READS_APART = timedelta(seconds=60)
"""The time between two reads of a machine that prove together what is booked."""
SLACK = timedelta(minutes=3)
"""Marketplaces tell the end of a booking in minutes that are left. Smaller differences mean the same end."""
NOT_WORTH_AN_HOUR = timedelta(minutes=2)
"""No hour is bought for a machine that is wanted for less than this after the end of its booking."""

_ROUNDED = 50
"""A price that differs by less than this part of it is the same price."""

BookingKind = Literal["create", "extend", "refund"]


class BookingState(StrEnum):
    """The state of a booking. The database stores the values."""

    INTENDED = "intended"  # committed, not sent yet
    SENT = "sent"  # sent, not answered yet
    UNKNOWN = "unknown"  # it may have been paid
    CONFIRMED = "confirmed"
    REFUSED = "refused"  # certainly not paid
    UNPROVEN = "unproven"  # nobody will ever know whether it was paid; it counts as not paid


OPEN = frozenset({BookingState.INTENDED, BookingState.SENT, BookingState.UNKNOWN})
"""A lease has at most one booking in these states: no other one is sent before the outcome of the last is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingRecord:
    """One booking of a lease as it is stored. Times are aware UTC."""

    lease_id: LeaseId
    number: int
    kind: BookingKind
    state: BookingState
    hours: int
    """0 for a refund."""
    amount: Micro
    """Micro-dollars; negative for a refund. Until it is confirmed: what is expected."""
    until_before: datetime | None
    """The end of what was booked before; None before the create."""
    until_after: datetime | None
    paid_before: Micro
    request_key: str
    """Unique for ever; for marketplaces that recognise a repeated request."""
    intended_at: datetime
    sent_at: datetime | None
    call_deadline: datetime | None
    """When the call ends at the latest, or when it ended. Reads that began before that prove nothing about it."""
    decided_at: datetime | None
    """When the booking was confirmed, or proven not to be paid."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BookingLine:
    """A booking or a refund as a transaction."""

    lease_id: LeaseId
    reservation_id: ReservationId
    provider: ProviderName
    instance_id: InstanceId
    gpu_model: str
    num_gpus: int
    number: int
    kind: BookingKind
    hours: int
    amount: Micro
    began_at: datetime | None
    """The begin and the end of the time that is paid for."""
    until: datetime | None
    at: datetime
    pending: bool
    """It is not known yet whether it was paid."""

    @property
    def id(self) -> str:
        """A unique id that is the same each time."""
        return f"{self.lease_id.replace('lease-', 'txn-', 1)}-booking-{self.number}"

    @property
    def gpu_hours(self) -> float:
        """The GPU-hours that were bought; 0.0 for a refund."""
        return float(self.num_gpus * self.hours)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one read of a machine shows of its booking."""

    at: datetime
    """When the read began."""
    until: datetime
    paid: Micro | None

    def agrees(self, other: "Seen") -> bool:
        """True if both reads show the same."""
        return abs(self.until - other.until) <= SLACK and self.paid == other.paid


def extension_due_at(lease: Lease, margin: timedelta) -> datetime | None:
    """When the next extension is to be sent; None if the machine needs none."""
    booked = lease.prepaid
    if lease.state not in RENTED or booked.booked_until is None:
        return None
    if lease.expires_at is not None and lease.expires_at - booked.booked_until <= NOT_WORTH_AN_HOUR:
        return None
    due_at = booked.booked_until - margin
    return due_at if booked.extend_at is None else max(due_at, booked.extend_at)


def is_read(booked: Prepaid) -> bool:
    """True if a read has told what is booked, and did so after the wait for another try of a failed extension."""
    read_at, again_at = booked.booking_read_at, booked.extend_at
    return read_at is not None and (again_at is None or read_at >= again_at)


def extension_hours(booked_until: datetime, wanted_until: datetime | None, most: int) -> int:
    """The whole hours to buy now: as many as are needed, at most `most`."""
    if wanted_until is None:
        return most
    needed = -((booked_until - wanted_until) // HOUR)  # rounded up
    return max(1, min(most, needed))


def shows_extension(booking: BookingRecord, seen: Seen) -> bool:
    """True if a read shows that an extension was executed: the machine is booked longer, or more was paid."""
    return shows_end(booking, seen) or (
        seen.paid is not None and 2 * (seen.paid - booking.paid_before) >= booking.amount > 0
    )


def shows_end(booking: BookingRecord, seen: Seen) -> bool:
    """True if a read shows the end of the booking that an extension has moved."""
    return booking.until_before is not None and seen.until - booking.until_before >= booking.hours * HOUR / 2


def agrees(booked: Prepaid, seen: Seen) -> bool:
    """True if a read shows what our bookings say."""
    same_end = booked.booked_until is not None and abs(seen.until - booked.booked_until) <= SLACK
    return same_end and seen.paid in (None, booked.paid)


def new_price(price: Micro, seen: Micro | None) -> Micro:
    """The price per hour after a read. Rates that follow from payments are rounded."""
    return seen if seen is not None and abs(seen - price) * _ROUNDED > price else price


def price_of(lease: Lease, hours: int) -> Micro:
    """The expected price of `hours` hours in micro-dollars."""
    return accrued(lease.observed.price, hours * HOUR)


def refund(lease: Lease, stopped_at: datetime) -> Micro:
    """What the marketplace gives back for a machine that was destroyed, by its own rule, in micro-dollars.

    It is what was paid, less the price of the time that was used and at least of the time that is never refunded.
    """
    booked = lease.prepaid
    if booked.refund_after is None or booked.booked_until is None or not lease.is_prepaid:
        return Micro(0)
    total = booked.booked_hours * HOUR
    used = max(stopped_at - (booked.booked_until - total), timedelta(seconds=booked.refund_after))
    left = max(timedelta(0), total - used)
    second = timedelta(seconds=1)
    return Micro(booked.paid * (left // second) // (total // second))


def refund_rule(lease: Lease) -> str:
    """What a destroy gives back, as a sentence for people; "" where the marketplace bills by use."""
    if not lease.is_prepaid:
        return ""
    after = lease.prepaid.refund_after
    if after is None:
        return "A destroy gives nothing back."
    return f"A destroy gives back the time that is not used; the first {round(after / 60)} minutes are always paid."


def ended_by_itself(lease: Lease, now: datetime) -> bool:
    """True if the marketplace has ended the machine because its booking is over."""
    until = lease.prepaid.booked_until
    return until is not None and now >= until - SLACK


def warning(lease: Lease) -> str:
    """What the owner of a machine should know about its booking; "" if there is nothing."""
    booked = lease.prepaid
    if lease.state not in RENTED or not booked.extend_refusal or booked.booked_until is None:
        return ""
    return (
        f"The booking of {lease.provider} {lease.instance_id} ends at {booked.booked_until:%Y-%m-%d %H:%MZ} and is not "
        f"extended yet: {booked.extend_refusal}. The machine ends with its booking, and its data is lost."
    )
