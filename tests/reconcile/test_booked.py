"""The plan for prepaid machines: when to extend, when to read, and what listings may not decide."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.bookings import BookingState
from gpuproxy.model.lease_events import Absent
from gpuproxy.model.lease_facts import BookingDoubted
from gpuproxy.model.leases import Lease, LeaseEvent, LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Booking, Capabilities, InstanceStatus, ListedInstance
from gpuproxy.reconcile.plan import plan
from gpuproxy.reconcile.steps import Adopt, Advance, Confirm, Extend, Note, ReadBooking, Step
from tests.model.test_bookings import extension
from tests.scenes import NOON, Account, events, lease_of, reservation_of, row

HOUR = 3600.0
PREPAID = Capabilities(
    billing="prepaid", refund_after=HOUR, listing_may_miss=True, listing_lag_seconds=60.0, late_seconds=None
)


def booked(**facts: Any) -> Lease:
    """A ready machine that is booked for three hours from noon; a read at noon agreed."""
    values: dict[str, Any] = {
        "state": LeaseState.ACTIVE, "booked_hours": 3, "booked_until": NOON + timedelta(hours=3),
        "paid": Micro(900_000), "refund_after": HOUR, "booking_read_at": NOON, "ready_at": NOON, "seen_at": NOON,
        "billed": "all",
    }  # fmt: skip
    return lease_of(**(values | facts))


def listed(hours: float = 3.0) -> ListedInstance:
    """A listing's row, with the end of the booking so many hours after noon."""
    return row(InstanceStatus.RUNNING, booking=Booking(until=NOON + timedelta(hours=hours)))


def steps(lease: Lease, seconds: float, *rows: ListedInstance, **facts: Any) -> list[Step]:
    return Account(lease).sees(seconds, *rows, capabilities=facts.pop("capabilities", PREPAID), **facts)


def kinds(found: list[Step]) -> set[type]:
    return {type(step) for step in found} & {Extend, ReadBooking, Confirm}


# -- extensions


def test_an_extension_is_due_ten_minutes_before_the_end_of_the_booking():
    assert kinds(steps(booked(), 3 * HOUR - 601, listed())) == set()
    assert kinds(steps(booked(), 3 * HOUR - 600, listed())) == {Extend}


def test_an_extension_waits_for_no_listing():
    account = Account(booked())
    late = account.sees(3 * HOUR - 600, capabilities=PREPAID)
    assert Extend in kinds(late)
    silent = account._scene(NOON + timedelta(hours=2.9), None, {"capabilities": PREPAID})
    assert kinds(plan(silent)) == {Extend}


@pytest.mark.parametrize(
    ("facts", "shown"),
    [
        ({"booking_read_at": None}, 3.0),
        ({}, 4.0),
        ({"extend_tries": 1, "extend_at": NOON + timedelta(hours=2.9)}, 3.0),
    ],
)
def test_nothing_is_bought_before_a_read_tells_what_is_booked(facts: dict[str, Any], shown: float):
    account = Account(booked(**facts))
    for at in (0, 2):
        found = account.sees(3 * HOUR - 300 + at, listed(shown), capabilities=PREPAID)
        account.applies(found)
        assert Extend not in kinds(found)
    assert kinds(found) == {ReadBooking}
    read_at = NOON + timedelta(hours=3, seconds=-296)
    sure = booked(**(facts | {"booking_read_at": read_at}))
    assert kinds(steps(sure, 3 * HOUR - 295, listed(shown))) == {Extend}


@pytest.mark.parametrize(
    "facts",
    [
        {"expires_at": NOON + timedelta(hours=3)},
        {"expires_at": NOON + timedelta(hours=2)},
        {"state": LeaseState.RELEASING, "destroy_at": NOON + timedelta(days=1), "destroy_tries": 1},
        {"booked_hours": 0, "booked_until": None},
        {"extend_at": NOON + timedelta(hours=3)},
        {"instance_id": None, "state": LeaseState.UNKNOWN},
    ],
)
def test_a_machine_that_is_not_wanted_longer_or_not_there_is_not_extended(facts: dict[str, Any]):
    assert Extend not in kinds(steps(booked(**facts), 3 * HOUR - 300, listed()))


def test_a_machine_whose_reservation_is_being_released_is_not_extended():
    account = Account(booked(), reservation_of(closing=Reason.RELEASED))
    found = account.sees(3 * HOUR - 300, listed(), capabilities=PREPAID)
    assert kinds(found) == set()
    assert events(found) == [LeaseEvent.RELEASE]


def test_a_machine_whose_booking_is_over_is_not_extended():
    assert Extend not in kinds(steps(booked(), 3 * HOUR, listed()))


def test_nothing_is_extended_where_extensions_are_not_possible_and_the_booking_counts_as_the_contract():
    fixed = replace(PREPAID, missing={"extend": "no"})
    account = Account(booked(expires_at=NOON + timedelta(hours=5)))
    found = account.sees(3 * HOUR - 300, listed(), capabilities=fixed)
    assert Extend not in kinds(found)
    account.applies(found)
    assert account.lease.observed.contract_ends_at == NOON + timedelta(hours=3)
    assert account.lease.observed.contract_warned_at is not None


# -- an open extension


def test_while_the_outcome_of_an_extension_is_unknown_no_other_one_is_sent_and_the_machine_is_read():
    open_ = {booked().id: extension()}
    assert kinds(steps(booked(), 3 * HOUR - 60, listed(), extensions=open_)) == {ReadBooking}


def test_while_an_extension_is_under_way_nothing_is_read_or_sent():
    sent = replace(extension(), state=BookingState.SENT, call_deadline=NOON + timedelta(hours=2.9))
    open_ = {booked().id: sent}
    assert kinds(steps(booked(), 2.85 * HOUR, listed(), extensions=open_)) == set()
    assert kinds(steps(booked(), 2.91 * HOUR, listed(), extensions=open_)) == {ReadBooking}


def test_a_machine_that_is_being_released_is_still_read_for_the_outcome_of_its_extension():
    lease = booked(state=LeaseState.RELEASING, destroy_at=NOON + timedelta(days=1), destroy_tries=1)
    open_ = {lease.id: extension()}
    assert ReadBooking in kinds(steps(lease, 3 * HOUR - 60, listed(), extensions=open_))


# -- listings


def test_a_listing_with_another_end_changes_nothing_and_makes_the_machine_be_read():
    found = steps(booked(), 600, listed(hours=2))
    assert [step.fact for step in found if isinstance(step, Note)][-1:] == [BookingDoubted()]
    account = Account(booked())
    account.applies(found)
    assert account.lease.prepaid.booked_until == NOON + timedelta(hours=3)
    assert kinds(account.sees(602, listed(hours=2), capabilities=PREPAID)) == {ReadBooking}


@pytest.mark.parametrize("hours", [3.0, 2.98, 3.02])
def test_a_listing_with_the_same_end_in_whole_minutes_doubts_nothing(hours: float):
    found = steps(booked(), 600, listed(hours))
    assert BookingDoubted() not in [step.fact for step in found if isinstance(step, Note)]


def test_a_listing_right_after_a_read_doubts_nothing():
    found = steps(booked(booking_read_at=NOON + timedelta(seconds=590)), 600, listed(hours=2))
    assert BookingDoubted() not in [step.fact for step in found if isinstance(step, Note)]


@pytest.mark.parametrize("may_miss", [False, True])
def test_two_reads_are_needed_to_miss_a_machine_and_to_end_a_release_where_listings_may_lack_machines(may_miss: bool):
    able = replace(PREPAID, listing_may_miss=may_miss)
    releasing = booked(state=LeaseState.RELEASING, destroy_tries=1, destroy_at=NOON + timedelta(days=1))
    for lease, alone in ((booked(missing_since=NOON), True), (releasing, may_miss)):
        [confirm] = [step for step in steps(lease, 60, capabilities=able) if isinstance(step, Confirm)]
        assert confirm.alone is alone


def test_listings_that_may_lack_machines_never_prove_that_a_destroyed_one_is_gone():
    releasing = booked(
        state=LeaseState.RELEASING, destroy_tries=1, destroy_at=NOON + timedelta(days=1), destroy_taken_at=NOON,
        gone_said_at=NOON,
    )  # fmt: skip
    account = Account(releasing)
    for at in range(2, 200, 20):
        found = account.sees(at, capabilities=PREPAID)
        assert events(found) == []
        account.applies(found)
    told = []
    sure = replace(PREPAID, listing_may_miss=False)
    for at in range(202, 300, 20):
        found = account.sees(at, capabilities=sure)
        told += events(found)
        account.applies(found)
    assert LeaseEvent.GONE in told


# -- creates without an answer


def unknown(**facts: Any) -> Lease:
    """A create that would have booked three hours, unanswered at noon."""
    return booked(
        state=LeaseState.UNKNOWN, instance_id=None, started_at=None, booked_until=None, paid=Micro(0), ready_at=None,
        seen_at=None, booking_read_at=None, **facts,
    )  # fmt: skip


def _told(account: Account, *seconds: float) -> list[Absent]:
    told = []
    for at in seconds:
        found = account.sees(at, capabilities=PREPAID, credit_unchanged=True)
        told += [step.event for step in found if isinstance(step, Advance) and isinstance(step.event, Absent)]
        account.applies(found)
    return told


def test_absence_is_never_proven_for_a_prepaid_create_before_everything_it_may_have_booked_is_over():
    account = Account(unknown())
    assert _told(account, *range(400, int(4 * HOUR), 600)) == []
    assert account.lease.pending.absent_checks == 0


def test_a_prepaid_create_that_is_never_found_ends_after_its_longest_booking_and_says_that_it_may_have_been_paid():
    account = Account(unknown())
    told = _told(account, 4 * HOUR + 1, 4 * HOUR + 5, 4 * HOUR + 20, 4 * HOUR + 40)
    assert [event.reason for event in told] == [Reason.BOOKING_NOT_FOUND]
    assert "$0.9000" in told[0].message
    assert "may have been paid" in told[0].message
    assert account.lease.label in told[0].message


def test_a_listing_with_unreadable_rows_does_not_end_a_prepaid_create():
    account = Account(unknown())
    for at in (4.1, 4.2, 4.3, 4.4):
        found = account.sees(at * HOUR, unreadable=("row 1: no id",), capabilities=PREPAID)
        assert events(found) == []
        account.applies(found)


def test_a_machine_that_is_found_by_its_label_is_adopted_however_late():
    found = steps(unknown(), 3.5 * HOUR, listed())
    assert [step.instance_id for step in found if isinstance(step, Adopt)] == ["1"]
