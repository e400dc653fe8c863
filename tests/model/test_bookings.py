"""The arithmetic of bookings: when to extend and by how much, what a read shows, what a destroy gives back."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model import bookings
from gpuproxy.model.bookings import BookingRecord, BookingState, Seen
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro
from tests.scenes import NOON, lease_of

HOUR = timedelta(hours=1)
MARGIN = timedelta(minutes=10)


def booked(**facts: Any) -> Lease:
    """A machine that is booked for three hours from noon, for 30 cents an hour."""
    values: dict[str, Any] = {
        "state": LeaseState.ACTIVE, "booked_hours": 3, "booked_until": NOON + 3 * HOUR, "paid": Micro(900_000),
        "refund_after": 3600.0,
    }  # fmt: skip
    return lease_of(**(values | facts))


def extension(hours: int = 2, amount: int = 600_000) -> BookingRecord:
    """An open extension of the machine above."""
    return BookingRecord(
        lease_id=booked().id, number=2, kind="extend", state=BookingState.UNKNOWN, hours=hours, amount=Micro(amount),
        until_before=NOON + 3 * HOUR, until_after=NOON + (3 + hours) * HOUR, paid_before=Micro(900_000),
        request_key="k", intended_at=NOON, sent_at=NOON, call_deadline=NOON, decided_at=None, message="",
    )  # fmt: skip


def seen(hours: float, paid: int | None = 900_000, at: float = 0) -> Seen:
    return Seen(NOON + timedelta(seconds=at), NOON + hours * HOUR, None if paid is None else Micro(paid))


@pytest.mark.parametrize(
    ("wanted_hours", "due_hours"),
    [(None, 3), (4, 3), (3 + 5 / 60, 3), (3 + 1 / 60, None), (3, None), (2, None)],
)
def test_a_machine_is_extended_in_time_if_it_is_wanted_longer_than_it_is_booked(
    wanted_hours: float | None, due_hours: float | None
):
    lease = booked(expires_at=None if wanted_hours is None else NOON + wanted_hours * HOUR)
    due_at = None if due_hours is None else NOON + due_hours * HOUR - MARGIN
    assert bookings.extension_due_at(lease, MARGIN) == due_at


@pytest.mark.parametrize("state", [LeaseState.RELEASING, LeaseState.RELEASED, LeaseState.LOST, LeaseState.UNKNOWN])
def test_a_machine_that_nobody_has_is_never_extended(state: LeaseState):
    assert bookings.extension_due_at(booked(state=state), MARGIN) is None


def test_after_a_refusal_an_extension_waits():
    later = NOON + 3 * HOUR - timedelta(minutes=5)
    assert bookings.extension_due_at(booked(extend_at=later), MARGIN) == later
    assert bookings.extension_due_at(booked(extend_at=NOON), MARGIN) == NOON + 3 * HOUR - MARGIN


@pytest.mark.parametrize(
    ("wanted_hours", "most", "hours"), [(None, 4, 4), (3.1, 4, 1), (4, 4, 1), (4.01, 4, 2), (50, 4, 4), (3, 4, 1)]
)
def test_whole_hours_are_bought_as_many_as_are_needed_and_at_most_the_setting(
    wanted_hours: float | None, most: int, hours: int
):
    wanted = None if wanted_hours is None else NOON + wanted_hours * HOUR
    assert bookings.extension_hours(NOON + 3 * HOUR, wanted, most) == hours


@pytest.mark.parametrize(
    ("read", "executed"),
    [
        (seen(5, 1_500_000), True),
        (seen(5, 900_000), True),
        (seen(3, 1_500_000), True),
        (seen(5, None), True),
        (seen(3, 900_000), False),
        (seen(2.97, None), False),
        (seen(3.9, 900_000), False),
        (seen(3, 1_000_000), False),
    ],
)
def test_an_extension_was_executed_if_the_end_or_the_payment_shows_it(read: Seen, *, executed: bool):
    assert bookings.shows_extension(extension(), read) is executed


def test_an_extension_without_a_price_is_shown_by_the_end_alone():
    assert not bookings.shows_extension(extension(amount=0), seen(3, 900_000))
    assert bookings.shows_extension(extension(amount=0), seen(5, 900_000))


@pytest.mark.parametrize(
    ("read", "same"), [(seen(3), True), (seen(2.98), True), (seen(2.9), False), (seen(3, 900_001), False),
                       (seen(3, None), True)]
)  # fmt: skip
def test_a_read_agrees_with_the_books_if_it_shows_the_same_end_and_payment(read: Seen, *, same: bool):
    assert bookings.agrees(booked().prepaid, read) is same


@pytest.mark.parametrize(("used_hours", "refund"), [(0.2, 600_000), (1, 600_000), (1.5, 450_000), (3, 0), (4, 0)])
def test_a_destroy_gives_back_the_time_that_is_not_used_but_never_the_first_hour(used_hours: float, refund: int):
    assert bookings.refund(booked(), NOON + used_hours * HOUR) == refund


def test_nothing_comes_back_where_the_rule_is_that_nothing_does():
    assert bookings.refund(booked(refund_after=None), NOON + HOUR) == 0
    assert "nothing back" in bookings.refund_rule(booked(refund_after=None))
    assert "60 minutes" in bookings.refund_rule(booked())
    assert bookings.refund_rule(lease_of()) == ""


@pytest.mark.parametrize(("shown", "price"), [(None, 300_000), (301_000, 300_000), (330_000, 330_000)])
def test_a_read_changes_the_price_unless_the_difference_is_rounding(shown: int | None, price: int):
    assert bookings.new_price(Micro(300_000), None if shown is None else Micro(shown)) == price


def test_a_machine_that_is_paid_in_advance_has_no_meter():
    assert meter_rate(booked(billed="all")) is None
    assert meter_rate(lease_of(billed="all")) == 300_000


def test_a_refused_extension_is_a_warning_with_the_end():
    assert bookings.warning(booked()) == ""
    text = bookings.warning(booked(extend_refusal="PROVIDER_FUNDS: no credit"))
    assert "2026-06-12 15:00Z" in text
    assert "PROVIDER_FUNDS" in text
    assert bookings.warning(booked(extend_refusal="x", state=LeaseState.RELEASING)) == ""
