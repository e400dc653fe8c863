"""Record what becomes of the extensions of prepaid machines. Parts of a unit of work.

Each extension is committed before it is sent, and sent once. As long as its outcome is unknown, no other one is sent:
`read` decides by what reads of the machine show.
"""

from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from gpuproxy.model import bookings
from gpuproxy.model.bookings import BookingRecord, BookingState, Seen
from gpuproxy.model.errors import Advice, AuthFailed, FailedPrecondition, InsufficientFunds, RateLimited, Refused
from gpuproxy.model.lease_events import Release
from gpuproxy.model.lease_facts import BookedLonger, BookingRead, NotBookedLonger
from gpuproxy.model.leases import LIVE, RENTED, Lease, LeaseId, LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import spending
from gpuproxy.ports import Tx
from gpuproxy.store import account_problems, leases, money_log, owners, settlements
from gpuproxy.store import bookings as stored

_PAUSE = timedelta(minutes=3)
"""How long an account is paused that lacked the funds for an extension, or whose key was refused."""
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=15), timedelta(seconds=120)
_WORTH_A_RETRY = (InsufficientFunds, AuthFailed)
"""Somebody may add credit or repair the key before the machine ends."""
_UNKNOWN = "the marketplace did not answer the extension; it is read whether it was executed"
_NOT_EXECUTED = "the last extension was not executed; another one is sent"


def wanted(lease: Lease, now: datetime, margin: timedelta, *, closing: bool) -> bool:
    """Whether an extension is to be sent now. `closing`: the machine's owner is releasing everything."""
    due_at, until = bookings.extension_due_at(lease, margin), lease.prepaid.booked_until
    if due_at is None or until is None or closing or lease.instance_id is None:
        return False
    return due_at <= now < until and (lease.expires_at is None or now < lease.expires_at)


def begin(tx: Tx, lease_id: LeaseId, most: int, margin: timedelta, patience: timedelta) -> BookingRecord | None:
    """Commit an extension of at most `most` hours that is about to be sent. None if none is to be sent (any more).

    Its answer is waited for at most for `patience`. Raises Unavailable if nothing may be paid for now.
    """
    lease = leases.get(tx, lease_id)
    if not wanted(lease, tx.now(), margin, closing=bool(owners.of(tx, lease).closing)):
        return None
    if stored.open_of(tx, lease_id) is not None or not bookings.is_read(lease.prepaid):
        return None
    if lease.prepaid.booked_until is None:
        return None
    hours = bookings.extension_hours(lease.prepaid.booked_until, lease.expires_at, most)
    if (refused_by := _not_allowed(tx, lease, hours)) is not None:
        _failed(tx, lease, *refused_by, tx.now() + _LONGEST_WAIT)
        return None
    return stored.begin_extension(tx, lease, hours, tx.now() + patience)


def _not_allowed(tx: Tx, lease: Lease, hours: int) -> tuple[Reason, str] | None:
    """Why an extension may not be paid for; None if it may. Then its amount is held."""
    tx.before_spending()
    if lease.observed.price > lease.creation.ceiling:
        return Reason.PRICE_MOVED, "its price is above the limit of the reservation"
    until = (lease.prepaid.booked_until or tx.now()) + hours * bookings.HOUR
    try:
        spending.admit_booking(tx, lease, bookings.price_of(lease, hours), until)
    except FailedPrecondition as refusal:
        return refusal.reason, refusal.message
    return None


def bought(tx: Tx, booking: BookingRecord) -> None:
    """Record that the marketplace has accepted an extension, also if reads before its answer did not show it."""
    lease, now = leases.find(tx, booking.lease_id), stored.find(tx, booking.lease_id, booking.number)
    if lease is None or now is None or lease.state not in LIVE:
        return
    if now.state not in bookings.OPEN and (now.state is not BookingState.REFUSED or _is_paid(tx, lease, now)):
        return
    stored.settle(tx, now, BookingState.CONFIRMED)
    until = (lease.prepaid.booked_until or tx.now()) + booking.hours * bookings.HOUR
    paid = Micro(lease.prepaid.paid + booking.amount)
    longer = leases.note(tx, lease, BookedLonger(booking.hours, until, paid))
    tx.after_commit(partial(money_log.booking_extended, longer, booking.hours, booking.amount))


def _is_paid(tx: Tx, lease: Lease, refused: BookingRecord) -> bool:
    """Whether what was paid for the machine has the amount of a refused extension: later reads have shown it."""
    others = sum(
        each.amount
        for each in stored.of_lease(tx, lease.id)
        if each.number > refused.number and each.state is BookingState.CONFIRMED
    )
    return 2 * (lease.prepaid.paid - refused.paid_before - others) >= refused.amount


def refused(tx: Tx, booking: BookingRecord, refusal: Refused) -> None:
    """Record that the marketplace has refused an extension. A read shows if it was executed nevertheless."""
    lease, now = _lease_and_state(tx, booking)
    if refusal.reason in account_problems.PAUSING and lease is not None:
        account_problems.record(tx, (lease.provider, lease.account), refusal, _PAUSE)
    if lease is None or now is None:
        return
    stored.settle(tx, now, BookingState.REFUSED, message=str(refusal))
    again_at = _again_at(tx, lease, refusal)
    _failed(tx, lease, refusal.reason, f"{refusal.reason}: {refusal}", again_at, doubtful=True)


def unknown(tx: Tx, booking: BookingRecord, text: str) -> None:
    """Record that nobody knows whether an extension was executed."""
    lease, now = _lease_and_state(tx, booking)
    if lease is None or now is None:
        return
    stored.settle(tx, now, BookingState.UNKNOWN, message=text)
    noted = leases.note(tx, lease, NotBookedLonger(_UNKNOWN, None))
    tx.after_commit(partial(money_log.extension_failed, noted, Reason.OUTCOME_UNKNOWN, text, unknown=True))


Verdict = Literal["decided", "again", "too early"]
"""What follows from a read: a decision; nothing, unless another read `READS_APART` later shows the same; nothing."""


def read(tx: Tx, lease_id: LeaseId, first: Seen | None, seen: Seen) -> Verdict:
    """Decide by a read of the machine. `first`: an earlier read that showed the same; None: there is none."""
    lease = leases.get(tx, lease_id)
    if lease.state not in LIVE:
        return "decided"
    booking = stored.open_of(tx, lease_id)
    if booking is not None and booking.kind == "extend":
        return _resolved(tx, lease, booking, first, seen)
    if _is_behind(tx, lease, seen):
        return "again"
    paid, until = lease.prepaid.paid, lease.prepaid.booked_until or seen.until
    same, price = bookings.agrees(lease.prepaid, seen), _price(tx, lease, paid, until)
    known = same and bookings.new_price(lease.observed.price, price) == lease.observed.price
    if not known and lease.state is not LeaseState.RELEASING and not _agreed(first, seen):
        return "again"  # a machine that is being destroyed is not there for a second read
    if same:
        _noted(tx, lease, BookingRead(seen.at, until, paid, price))
    else:
        _correct(tx, lease, seen)
    return "decided"


def _agreed(first: Seen | None, seen: Seen) -> bool:
    return first is not None and seen.at - first.at >= bookings.READS_APART and seen.agrees(first)


def _last_extension(tx: Tx, lease: Lease) -> BookingRecord | None:
    """The last extension that is known to be executed."""
    confirmed = (each for each in reversed(stored.of_lease(tx, lease.id)) if each.state is BookingState.CONFIRMED)
    return next((each for each in confirmed if each.kind == "extend"), None)


def _is_behind(tx: Tx, lease: Lease, seen: Seen) -> bool:
    """Whether a read does not show the end of an executed extension, before whose begin the machine can't have ended.

    Nothing follows from such reads, however many: a machine that runs on past that time was booked longer.
    """
    last = _last_extension(tx, lease)
    if last is None or last.until_before is None or tx.now() >= last.until_before:
        return False
    return not bookings.shows_end(last, seen)


def _resolved(tx: Tx, lease: Lease, booking: BookingRecord, first: Seen | None, seen: Seen) -> Verdict:
    """Decide an open extension. A read that began before the end of its call proves nothing."""
    ended = booking.call_deadline
    if ended is None or seen.at <= ended:
        return "too early"
    if bookings.shows_extension(booking, seen):
        expected = Micro(lease.prepaid.paid + booking.amount)
        paid = expected if seen.paid is None else seen.paid
        until = seen.until
        if booking.until_after and (_same(until, booking.until_after) or not bookings.shows_end(booking, seen)):
            until = booking.until_after  # the payment may be shown before the end
        amount = Micro(max(0, paid - lease.prepaid.paid))
        stored.settle(tx, booking, BookingState.CONFIRMED, amount=amount, until=until)
        longer = leases.note(tx, lease, BookedLonger(booking.hours, until, paid))
        tx.after_commit(partial(money_log.booking_extended, longer, booking.hours, paid - lease.prepaid.paid))
        return "decided"
    if first is None or first.at <= ended or not _agreed(first, seen):
        return "again"
    stored.settle(tx, booking, BookingState.REFUSED, message="two reads of the machine do not show it")
    _failed(tx, lease, Reason.OUTCOME_UNKNOWN, _NOT_EXECUTED, None)
    return "decided"


def _correct(tx: Tx, lease: Lease, seen: Seen) -> None:
    """Reads show that something else is booked or paid than our bookings say: they are right."""
    paid = lease.prepaid.paid if seen.paid is None else seen.paid
    recorded = leases.recorded(tx, lease.id)
    difference = paid - lease.prepaid.paid
    if difference:
        charged = Micro(recorded + settlements.difference(tx, lease.id) + difference)
        settlements.save(tx, lease.id, charged=charged, metered=recorded)
    until = lease.prepaid.booked_until
    until = until if until is not None and _same(until, seen.until) else seen.until
    corrected = _noted(tx, lease, BookingRead(seen.at, until, paid, _price(tx, lease, paid, until)))
    if corrected.state in RENTED and _costs_too_much(tx, corrected):
        leases.advance(tx, corrected, Release(Reason.PRICE_MOVED, tx.now()))


def _noted(tx: Tx, lease: Lease, read: BookingRead) -> Lease:
    """The lease with a read, and with what follows from its price. It may be released.

    A price above the limit of the reservation raises no hold after an extension: nothing more is booked.
    """
    noted = leases.note(tx, lease, read)
    if noted.observed.price <= noted.creation.ceiling or _last_extension(tx, lease) is None:
        spending.followed_price(tx, lease, noted)
    return leases.get(tx, lease.id)


def _price(tx: Tx, lease: Lease, paid: Micro, until: datetime) -> Micro | None:
    """The price per hour of the last booking: what was paid for the time that it added; None if nothing tells it."""
    booked = lease.prepaid
    more = 0 if booked.booked_until is None else _hours(until - booked.booked_until)
    if more > 0:
        return _rate(paid - booked.paid, more)
    last = _last_extension(tx, lease)
    if last is None or last.until_before is None:
        return _rate(paid, booked.booked_hours + more)
    return _rate(paid - last.paid_before, _hours(until - last.until_before))


def _hours(time: timedelta) -> int:
    return round(time / bookings.HOUR)


def _rate(paid: int, hours: int) -> Micro | None:
    return Micro(paid // hours) if paid > 0 and hours > 0 else None


def _costs_too_much(tx: Tx, lease: Lease) -> bool:
    """Whether the create was charged above the limit. A dear extension is not extended again, but used up."""
    if _last_extension(tx, lease) is not None:
        return False
    return lease.prepaid.paid > (lease.creation.ceiling + 1) * lease.prepaid.booked_hours


def _same(one: datetime, other: datetime) -> bool:
    return abs(one - other) <= bookings.SLACK


def _lease_and_state(tx: Tx, booking: BookingRecord) -> tuple[Lease | None, BookingRecord | None]:
    """The lease and the booking now. No booking if it was decided meanwhile, no lease if it was deleted."""
    now = stored.find(tx, booking.lease_id, booking.number)
    still = now if now is not None and now.state in bookings.OPEN else None
    return leases.find(tx, booking.lease_id), still


def _again_at(tx: Tx, lease: Lease, refusal: Refused) -> datetime | None:
    """When the next extension may be sent after a refusal."""
    if refusal.advice is Advice.STOP and not isinstance(refusal, _WORTH_A_RETRY):
        return lease.prepaid.booked_until  # the same request would be refused again
    wait = min(_FIRST_WAIT * (1 << min(lease.prepaid.extend_tries, 5)), _LONGEST_WAIT)
    if isinstance(refusal, RateLimited) and refusal.retry_after is not None:
        wait = timedelta(seconds=refusal.retry_after)
    return tx.now() + wait


def _failed(
    tx: Tx, lease: Lease, reason: Reason, why: str, again_at: datetime | None, *, doubtful: bool = False
) -> None:
    if lease.state not in RENTED:
        return
    noted = leases.note(tx, lease, NotBookedLonger(why, again_at, doubtful))
    tx.after_commit(partial(money_log.extension_failed, noted, reason, why))
