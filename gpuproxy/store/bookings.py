"""Bookings: what was paid in advance for a lease, and what was refunded. Each is a row that begins as an intent.

The booking of a create follows the events of its lease, and so does a refund (`follow`, called by `leases`). Extensions
are written by `outcomes.extensions`. A lease has at most one open booking: a unique index sees to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from gpuproxy.model import bookings
from gpuproxy.model.bookings import BookingLine, BookingRecord, BookingState
from gpuproxy.model.leases import TERMINAL, InstanceId, Lease, LeaseEvent, LeaseId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey
from gpuproxy.ports import Tx
from gpuproxy.store import events, ledger, money_log
from gpuproxy.store.rows import LIVE_SQL, micros, moment, stored

_S = BookingState
_OPEN_SQL = "('intended', 'sent', 'unknown')"
"""Written exactly as in the index of open bookings."""
_TIMES = ("until_before", "until_after", "intended_at", "sent_at", "call_deadline", "decided_at")
_COLUMNS = (
    "lease_id", "number", "kind", "state", "hours", "amount", "until_before", "until_after", "paid_before",
    "request_key", "intended_at", "sent_at", "call_deadline", "decided_at", "message",
)  # fmt: skip


def intend_create(tx: Tx, lease: Lease) -> None:
    """Write the booking of a new lease's create, if it is paid in advance."""
    if lease.is_prepaid:
        hours = lease.prepaid.booked_hours
        _insert(
            tx, lease, _record(tx, lease, "create", _S.INTENDED, hours=hours, amount=bookings.price_of(lease, hours))
        )


def begin_extension(tx: Tx, lease: Lease, hours: int, deadline: datetime) -> BookingRecord:
    """Write the booking of an extension that is about to be sent. Raises Taken if the lease has an open booking."""
    made = replace(
        _record(tx, lease, "extend", _S.SENT, hours=hours, amount=bookings.price_of(lease, hours)),
        until_after=None if lease.prepaid.booked_until is None else lease.prepaid.booked_until + hours * bookings.HOUR,
        sent_at=tx.now(),
        call_deadline=deadline,
    )
    _insert(tx, lease, made)
    return made


def settle(
    tx: Tx,
    booking: BookingRecord,
    state: BookingState,
    *,
    amount: Micro | None = None,
    until: datetime | None = None,
    message: str = "",
    again: bool = False,
) -> None:
    """Record the outcome of an open booking. None: as it was expected. `again`: its machine has just reappeared."""
    decided = state not in bookings.OPEN
    changed = replace(
        booking,
        state=state,
        amount=booking.amount if amount is None else amount,
        until_after=until or booking.until_after,
        call_deadline=tx.now() if state is _S.UNKNOWN else booking.call_deadline,
        decided_at=tx.now() if decided else None,
        message=message or booking.message,
    )
    _save(tx, changed)
    if state is _S.CONFIRMED and booking.state is not _S.CONFIRMED:
        _post(tx, changed, again=again)


def find(tx: Tx, lease_id: LeaseId, number: int) -> BookingRecord | None:
    """A booking as it is now."""
    row = tx.fetch_one("SELECT * FROM bookings WHERE lease_id = ? AND number = ?", (lease_id, number))
    return None if row is None else _from(row)


def of_lease(tx: Tx, lease_id: LeaseId) -> tuple[BookingRecord, ...]:
    """The bookings of a lease, oldest first."""
    return tuple(
        _from(row) for row in tx.fetch("SELECT * FROM bookings WHERE lease_id = ? ORDER BY number", (lease_id,))
    )


def open_of(tx: Tx, lease_id: LeaseId) -> BookingRecord | None:
    """The open booking of a lease; None if it has none."""
    row = tx.fetch_one(
        f"SELECT * FROM bookings WHERE lease_id = ? AND state IN {_OPEN_SQL}",  # noqa: S608 - our own words
        (lease_id,),
    )
    return None if row is None else _from(row)


def open_extensions(tx: Tx, account: AccountKey) -> Mapping[LeaseId, BookingRecord]:
    """The extensions of an account's machines whose outcome is not known yet."""
    rows = tx.fetch(
        "SELECT b.* FROM leases l CROSS JOIN bookings b ON b.lease_id = l.id "  # noqa: S608 - our own words
        f"WHERE l.provider = ? AND l.account = ? AND l.state IN {LIVE_SQL} "
        f"AND b.state IN {_OPEN_SQL} AND b.kind = 'extend'",
        account,
    )
    return {LeaseId(row["lease_id"]): _from(row) for row in rows}


def total(tx: Tx, lease_id: LeaseId) -> Micro:
    """What was paid for a lease by its confirmed bookings, less its refunds, in micro-dollars."""
    row = tx.fetch_one(
        "SELECT coalesce(sum(amount), 0) AS booked FROM bookings WHERE lease_id = ? AND state = 'confirmed'",
        (lease_id,),
    )
    return Micro(0 if row is None else row["booked"])


def booked_between(tx: Tx, account: AccountKey, since: datetime, until: datetime) -> Micro:
    """What an account paid within a period by its confirmed bookings, less its refunds, in micro-dollars."""
    row = tx.fetch_one(
        "SELECT coalesce(sum(b.amount), 0) AS booked FROM bookings b CROSS JOIN leases l ON l.id = b.lease_id "
        "WHERE l.provider = ? AND l.account = ? AND b.state = 'confirmed' AND b.decided_at > ? AND b.decided_at <= ?",
        (*account, micros(since), micros(until)),
    )
    return Micro(0 if row is None else row["booked"])


def doubtful_at(tx: Tx, account: AccountKey, at: datetime, late: timedelta) -> Micro:
    """The amounts of an account of which nobody knows whether they were paid or refunded at a time; in micro-dollars.

    These are the bookings and the destroys that were under way then, or up to `late` before.
    """
    since, until = micros(at - late), micros(at)
    paid = "SELECT b.amount FROM bookings b CROSS JOIN leases l ON l.id = b.lease_id WHERE b.sent_at <= ? "
    of_account = "AND l.provider = ? AND l.account = ?"
    back = "SELECT paid AS amount FROM leases WHERE provider = ? AND account = ? AND booked_hours > 0 "
    found = (
        *tx.fetch(f"{paid} AND b.state IN {_OPEN_SQL} {of_account}", (until, *account)),
        *tx.fetch(f"{paid} AND b.decided_at > ? {of_account}", (until, since, *account)),
        *tx.fetch(f"{back} AND destroy_taken_at <= ? AND state IN {LIVE_SQL}", (*account, until)),
        *tx.fetch(f"{back} AND destroy_taken_at <= ? AND ended_at > ?", (*account, until, since)),
    )
    return Micro(sum(int(row["amount"]) for row in found))


def newest(tx: Tx, project: str | None, limit: int) -> tuple[BookingLine, ...]:
    """The open bookings of a project that may have been paid, or of all projects for None, and its `limit` last ones.

    A booking is dated by its confirmation.
    """
    of_project, which = ("", ()) if project is None else ("b.project = ? AND ", (project,))
    still = tx.fetch(
        f"{_LINES} WHERE {of_project}b.state IN {_OPEN_SQL} AND b.state <> 'intended'",
        which,
    )
    decided = tx.fetch(
        f"{_LINES} WHERE {of_project}b.state = 'confirmed' ORDER BY b.decided_at DESC, b.lease_id LIMIT ?",
        (*which, limit),
    )
    return tuple(_line(row) for row in (*still, *decided))


def follow(tx: Tx, old: Lease, new: Lease, event: LeaseEvent | None) -> None:
    """Write what follows for the bookings from a change of a lease."""
    if not new.is_prepaid:
        return
    if new.instance_id is None or old.instance_id is None:
        _follow_create(tx, old, new, event)
    elif new.state in TERMINAL and old.state not in TERMINAL:
        _follow_end(tx, new, event)


def _follow_create(tx: Tx, old: Lease, new: Lease, event: LeaseEvent | None) -> None:
    create = find(tx, new.id, 1)
    if create is None or create.state is _S.CONFIRMED:
        return
    if new.instance_id is not None:
        again = event is LeaseEvent.REAPPEARED
        settle(tx, create, _S.CONFIRMED, amount=new.prepaid.paid, until=new.prepaid.booked_until, again=again)
    elif new.state in TERMINAL:
        over = event is LeaseEvent.ABSENT and new.pending.absent_checks > old.pending.absent_checks
        settle(tx, create, _S.UNPROVEN if over else _S.REFUSED, message=new.observed.status_message)
    elif event is LeaseEvent.REPLY_LOST:
        settle(tx, create, _S.UNKNOWN, message=new.observed.status_message)
    elif new.creation.call_started_at != old.creation.call_started_at:
        sent_at, deadline = new.creation.call_started_at, new.creation.call_deadline
        state = _S.INTENDED if sent_at is None else _S.SENT
        _save(tx, replace(create, state=state, sent_at=sent_at, call_deadline=deadline))


def _follow_end(tx: Tx, lease: Lease, event: LeaseEvent | None) -> None:
    """The end of a machine: what is still open is decided as well as it ever can be, and a refund is booked."""
    if (left := open_of(tx, lease.id)) is not None:
        ended = event is LeaseEvent.ENDED  # at the end of what was booked before, so it was never extended
        settle(tx, left, _S.REFUSED if ended else _S.UNPROVEN, message="the machine ended before this was known")
    if event is not LeaseEvent.GONE:
        return
    expected = bookings.refund(lease, lease.pending.destroy_taken_at or tx.now())
    amount = expected - _refunded(tx, lease.id)  # it differs from 0 a second time if the machine had reappeared
    if amount:
        entry = _record(tx, lease, "refund", _S.CONFIRMED, hours=0, amount=Micro(-amount))
        _insert(tx, lease, replace(entry, until_after=tx.now(), decided_at=tx.now()))
        tx.after_commit(partial(money_log.booking_refunded, lease, amount))


def _refunded(tx: Tx, lease_id: LeaseId) -> int:
    row = tx.fetch_one(
        "SELECT coalesce(-sum(amount), 0) AS back FROM bookings WHERE lease_id = ? AND kind = 'refund'", (lease_id,)
    )
    return 0 if row is None else int(row["back"])


def _record(
    tx: Tx, lease: Lease, kind: bookings.BookingKind, state: BookingState, *, hours: int, amount: Micro
) -> BookingRecord:
    row = tx.fetch_one("SELECT coalesce(max(number), 0) + 1 AS next FROM bookings WHERE lease_id = ?", (lease.id,))
    number = 1 if row is None else int(row["next"])
    return BookingRecord(
        lease_id=lease.id, number=number, kind=kind, state=state, hours=hours, amount=amount,
        until_before=lease.prepaid.booked_until, until_after=None, paid_before=lease.prepaid.paid,
        request_key=f"{lease.label}-{number}", intended_at=tx.now(), sent_at=None, call_deadline=None, decided_at=None,
        message="",
    )  # fmt: skip


def _insert(tx: Tx, lease: Lease, booking: BookingRecord) -> None:
    values = [stored(getattr(booking, name)) for name in _COLUMNS]
    tx.write(
        f"INSERT INTO bookings (project, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(values)})",  # noqa: S608
        [lease.project, *values],
    )
    if booking.state is _S.CONFIRMED:
        _post(tx, booking)


def _save(tx: Tx, booking: BookingRecord) -> None:
    names = [name for name in _COLUMNS if name not in ("lease_id", "number")]
    tx.write(
        f"UPDATE bookings SET {', '.join(f'{name} = ?' for name in names)} "  # noqa: S608 - our own column names
        "WHERE lease_id = ? AND number = ?",
        [*(stored(getattr(booking, name)) for name in names), booking.lease_id, booking.number],
    )


def _post(tx: Tx, booking: BookingRecord, *, again: bool = False) -> None:
    """Post a booking at the moment of its intent, and a refund when it is booked.

    However late the payment becomes known, it counts in the month in which its money was held. `again`: its machine
    has reappeared with this event, and nothing was held.
    """
    paid_at = micros(booking.decided_at or tx.now()) if again else micros(booking.intended_at)
    [row] = tx.fetch("SELECT num_gpus FROM leases WHERE id = ?", (booking.lease_id,))
    ledger.post(
        tx,
        booking.lease_id,
        ledger.Charge(
            kind="refund" if booking.kind == "refund" else "booking",
            amount=booking.amount,
            since=paid_at,
            until=paid_at,
            gpu_time=row["num_gpus"] * (booking.hours * bookings.HOUR // timedelta(microseconds=1)),
        ),
        surplus=again or events.was_given_up(tx, booking.lease_id),
    )


def _from(row: Mapping[str, Any]) -> BookingRecord:
    values = {name: row[name] for name in _COLUMNS}
    values["state"] = BookingState(row["state"])
    for name in _TIMES:
        values[name] = None if values[name] is None else moment(values[name])
    return BookingRecord(**values)


_LINES = (
    "SELECT b.*, l.reservation_id, l.provider, l.instance_id, l.gpu_model, l.num_gpus FROM bookings b "
    "CROSS JOIN leases l ON l.id = b.lease_id"
)


def _line(row: Mapping[str, Any]) -> BookingLine:
    booking = _from(row)
    began = booking.until_before if booking.kind == "extend" else booking.sent_at
    return BookingLine(
        lease_id=booking.lease_id, reservation_id=row["reservation_id"], provider=row["provider"],
        instance_id=InstanceId(row["instance_id"] or ""), gpu_model=row["gpu_model"], num_gpus=row["num_gpus"],
        number=booking.number, kind=booking.kind, hours=booking.hours, amount=booking.amount, began_at=began,
        until=booking.until_after, at=booking.decided_at or booking.sent_at or booking.intended_at,
        pending=booking.state in bookings.OPEN,
    )  # fmt: skip
