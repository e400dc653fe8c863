"""What a prepaid machine needs: an extension before its booking ends, and reads that tell what is booked. Pure.

A listing may lag behind an extension, so it never changes what is booked. If it shows another end of the booking, the
machine is read. Nothing is bought before a read has told what is booked: a failed extension may have been executed.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from gpuproxy.model import bookings
from gpuproxy.model.bookings import BookingRecord, BookingState
from gpuproxy.model.lease_facts import BookingDoubted
from gpuproxy.model.leases import RENTED, Lease, LeaseState
from gpuproxy.outcomes import extensions
from gpuproxy.ports import ListedInstance
from gpuproxy.reconcile.steps import Extend, Note, ReadBooking, Scene


def booked(lease: Lease, instance: ListedInstance | None, scene: Scene) -> Iterator[Extend | ReadBooking | Note]:
    """The next step for the booking of a machine that exists."""
    if not lease.is_prepaid or lease.instance_id is None:
        return
    open_booking = scene.extensions.get(lease.id)
    if open_booking is not None:
        if _is_to_be_read(open_booking, scene.now):
            yield ReadBooking(lease)
        return
    if lease.state not in RENTED:
        if lease.state is LeaseState.RELEASING and lease.prepaid.booking_read_at is None:
            yield ReadBooking(lease)  # nobody has said what its create has cost
        return
    if _is_doubtful(lease, instance, scene.now):
        yield Note(lease, BookingDoubted())
        return
    closing = bool(scene.owners[lease.owner_id].closing)
    margin = timedelta(seconds=scene.limits.extend_margin)
    wanted = "extend" not in scene.capabilities.missing and extensions.wanted(lease, scene.now, margin, closing=closing)
    if wanted and bookings.is_read(lease.prepaid):
        yield Extend(lease)
    elif wanted or lease.prepaid.booking_read_at is None:
        yield ReadBooking(lease)


def due_at(lease: Lease, scene: Scene) -> datetime | None:
    """When the booking of a machine needs its next step; None if it needs none that depends on time alone."""
    if not lease.is_prepaid or lease.instance_id is None:
        return None
    open_booking = scene.extensions.get(lease.id)
    if open_booking is not None:
        return open_booking.call_deadline
    if lease.state not in RENTED or scene.owners[lease.owner_id].closing:
        return None
    if "extend" in scene.capabilities.missing:
        return None
    at = bookings.extension_due_at(lease, timedelta(seconds=scene.limits.extend_margin))
    until = lease.prepaid.booked_until
    return None if until is None or until <= scene.now else at


def _is_to_be_read(booking: BookingRecord, now: datetime) -> bool:
    """Whether the call of an open extension is over, so that reads tell what came of it."""
    over = booking.call_deadline is not None and now > booking.call_deadline
    return booking.state is BookingState.UNKNOWN or (booking.state is BookingState.SENT and over)


def _is_doubtful(lease: Lease, instance: ListedInstance | None, now: datetime) -> bool:
    """Whether a listing shows another end of the booking than ours, which no recent read has confirmed."""
    ours, read_at = lease.prepaid.booked_until, lease.prepaid.booking_read_at
    if instance is None or instance.booking is None or ours is None or read_at is None:
        return False
    return abs(instance.booking.until - ours) > bookings.SLACK and now - read_at >= bookings.READS_APART
