"""Spending limits, quotas and holds. `admit` is the only place where spending is allowed.

The hold of a lease is written with the lease, without length, and deleted when the lease ends, so a hold lasts until it
is proven that nothing is paid any more. Between, facts only lower it (`follow`); only `admit` raises it, in the
transaction of the intent. See `model.limits` for what a hold is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from gpuproxy.model import lease_ends
from gpuproxy.model.bookings import HOUR
from gpuproxy.model.leases import TERMINAL, Lease, LeaseId, LeaseState
from gpuproxy.model.limits import (
    BudgetExceeded,
    Hold,
    Holds,
    Over,
    Past,
    Span,
    SpendingLimit,
    Usage,
    exceeded,
    held,
    raised,
    without_price,
)
from gpuproxy.model.money import Micro
from gpuproxy.model.quotas import Quota
from gpuproxy.ports import Tx
from gpuproxy.store import bookings, spend_limits
from gpuproxy.store.rows import micros, moment
from gpuproxy.store.spent import spent, spent_on

_COLUMNS = (
    "project", "key_id", "gpus", "rate", "peak", "since", "until", "paid_until", "booked", "extra", "lead",
    "kept_rate", "kept_until",
)  # fmt: skip
_HOLD = "SELECT * FROM spend_holds WHERE lease_id = ?"
_KEY_ID = "SELECT key_id FROM reservations WHERE id = ?"
_US = timedelta(microseconds=1)
_EARLY = timedelta(hours=1)
"""How long before the end of a booking the next one is bought, at most: `extend_margin` is shorter."""


# -- admission


def admit(tx: Tx, changes: Sequence[Hold], *, prolongs: bool = False) -> None:
    """Hold more money, if every limit and quota allows it. Raises BudgetExceeded, or what a quota raises.

    `changes` are holds as they are to become. Called in the transaction of the intent, before anything is paid.
    `prolongs`: see `refusing`.
    """
    if refusals := refusing(tx, changes, prolongs=prolongs):
        raise BudgetExceeded(refusals[0])
    for hold in changes:
        save(tx, hold)


def save(tx: Tx, change: Hold) -> None:
    """Hold more money, of which `refusing` has just refused nothing in the same unit of work."""
    _save(tx, change)


def force(tx: Tx, change: Hold) -> None:
    """Hold more money whatever the limits say, for what goes on to cost money in any case."""
    _save(tx, change, forced=True)


def asks_for_more(tx: Tx, before: Hold, after: Hold) -> bool:
    """False if no limit has less left after a change of a hold: it only moves money that is held already.

    The trigger compares lower bounds, so with a limit that is exceeded it could refuse such a change: `force` it.
    """
    now, past = micros(tx.now()), _past(tx)
    return after.rate > before.rate or any(
        held(after, limit.window, span, now, past) > held(before, limit.window, span, now, past)
        for limit in spend_limits.applying(tx, after.project, after.key_id)
        for span in limit.window.spans(now, max(after.until, after.kept_until))
    )


def check(tx: Tx, changes: Sequence[Hold], *, at_once: Sequence[Hold] | None = None) -> None:
    """Raise what `admit` would raise. Nothing is written.

    `at_once`: those of the changes that count against a quota, which limits what there is at one time. Default: all.
    """
    if changes and (refusals := refusing(tx, changes, stored=False, at_once=at_once)):
        raise BudgetExceeded(refusals[0])


def refusing(
    tx: Tx,
    changes: Sequence[Hold],
    *,
    stored: bool = True,
    at_once: Sequence[Hold] | None = None,
    quotas: bool = True,
    prolongs: bool = False,
) -> list[Over]:
    """The limits that would be exceeded. Raises what a quota raises.

    `stored`: what is spent is stored with each limit, for the trigger that checks the holds again. `at_once`: see
    `check`. `quotas`: False for what goes on. A quota refuses what is new. `prolongs`: something goes on for longer.
    """
    project, key_id = changes[0].project, changes[0].key_id
    spend_limits.quota_ahead(tx, project)
    limits = spend_limits.applying(tx, project, key_id)
    quota = spend_limits.quota_of(tx, project)
    if not limits and quota is None:
        return []
    rows = all_holds(tx, None if any(each.scope != "project" for each in limits) else project)
    ids = {hold.lease_id for hold in changes}
    holds = Holds(
        others=[row for row in rows if row.lease_id not in ids],
        before=[row for row in rows if row.lease_id in ids],
        after=changes,
        prolongs=prolongs,
    )
    if quotas:
        _check_quota(quota, project, holds if at_once is None else replace(holds, after=at_once))
    strict = [each for each in limits if each.policy != "warn"]
    held_free = {hold.lease_id: hold.until for hold in holds.before if hold.rate <= 0}
    if strict and any(hold.rate <= 0 and hold.until > held_free.get(hold.lease_id, 0) for hold in changes):
        raise without_price(project)
    past, until = _past(tx), max(max(hold.until, hold.kept_until) for hold in changes)
    found = (_over(tx, limit, holds, until, past, stored=stored) for limit in strict)
    return [over for over in found if over is not None]


def _check_quota(quota: Quota | None, project: str, holds: Holds) -> None:
    if quota is None:
        return
    others = [hold for hold in holds.others if hold.project == project]
    refusal = quota.refusal(project, [*others, *holds.before], [*others, *holds.after])
    if refusal is not None:
        raise refusal


def _over(tx: Tx, limit: SpendingLimit, holds: Holds, until: int, past: Past, *, stored: bool) -> Over | None:
    now = micros(tx.now())
    posted_since = cache(lambda since: _posted(tx, limit, since))
    for span in limit.window.spans(now, until):
        doubtful = _doubtful(tx, limit, span) if span.since <= now else 0
        if stored and span.since <= now:
            tx.write(
                "UPDATE spend_limits SET posted = ?, posted_at = ?, posted_since = ?, posted_until = ? WHERE id = ?",
                (posted_since(span.since) + doubtful, now, span.since, span.end or 0, limit.id),
            )
        over = exceeded(limit, span, now, spent=posted_since, holds=replace(holds, doubtful=doubtful), past=past)
        if over is not None:
            return over
    return None


def _past(tx: Tx) -> Past:
    """What was paid for each lease. Each sum is read once."""
    return cache(lambda lease_id, since: spent_on(tx, LeaseId(lease_id), moment(since), tx.now()))


def _posted(tx: Tx, limit: SpendingLimit, since: int) -> Micro:
    """What was paid since a time."""
    project, key_id = _whose(limit)
    return spent(tx, project=project, key_id=key_id, since=moment(since), until=tx.now())


def _doubtful(tx: Tx, limit: SpendingLimit, span: Span) -> Micro:
    """What may have been paid by bookings of which nobody will ever know. It stays held while it is in the window."""
    project, key_id = _whose(limit)
    row = tx.fetch_one(
        "SELECT coalesce(sum(b.amount), 0) AS doubtful FROM bookings b CROSS JOIN leases l ON l.id = b.lease_id "
        "CROSS JOIN reservations r ON r.id = l.reservation_id WHERE b.state = 'unproven' "
        "AND b.intended_at >= ? "
        "AND (? IS NULL OR b.project = ?) AND (? IS NULL OR r.key_id = ?)",
        (span.since, project, project, key_id, key_id),
    )
    return Micro(0 if row is None else int(row["doubtful"]))


def _whose(limit: SpendingLimit) -> tuple[str | None, str | None]:
    """The project and the key that a limit covers; None for any."""
    return limit.subject if limit.scope == "project" else None, limit.subject if limit.scope == "key" else None


def usages(tx: Tx, chosen: Sequence[SpendingLimit]) -> list[Usage]:
    """What counts against each of these limits now."""
    now, past = micros(tx.now()), _past(tx)
    rows = all_holds(tx, None) if chosen else []
    found = []
    for limit in chosen:
        span = limit.window.span(now)
        covered = (hold for hold in rows if limit.covers(hold.project, hold.key_id))
        holding = sum(held(hold, limit.window, span, now, past) for hold in covered)
        usage = Usage(limit=limit, spent=_posted(tx, limit, span.since), held=holding + _doubtful(tx, limit, span))
        found.append(usage)
    return found


# -- holds


def hold_of(tx: Tx, lease_id: LeaseId) -> Hold | None:
    """The hold of a live lease; None for one that has ended."""
    row = tx.fetch_one(_HOLD, (lease_id,))
    return None if row is None else _hold(row)


def ahead(tx: Tx, lease_id: LeaseId) -> None:
    """Say that the hold of a lease will be read."""
    tx.ahead(_HOLD, (lease_id,))


def all_holds(tx: Tx, project: str | None) -> list[Hold]:
    """All holds of a project, or of all projects for None."""
    return [
        _hold(row) for row in tx.fetch("SELECT * FROM spend_holds WHERE ? IS NULL OR project = ?", (project, project))
    ]


def ending(tx: Tx, before: datetime) -> list[Hold]:
    """The admitted holds that end before this time, those of the oldest machines first."""
    rows = tx.fetch(
        "SELECT * FROM spend_holds WHERE until < ? AND until > since ORDER BY since, lease_id", (micros(before),)
    )
    return [_hold(row) for row in rows]


def of_stopped(tx: Tx, before: datetime) -> list[Hold]:
    """The holds that still count GPUs of machines that are stopped, and were to be stopped before this time."""
    rows = tx.fetch(
        "SELECT h.* FROM spend_holds h CROSS JOIN leases l ON l.id = h.lease_id "
        "WHERE h.gpus > 0 AND l.state = 'parked' AND l.stop_at < ?",
        (micros(before),),
    )
    return [_hold(row) for row in rows]


def wanted(tx: Tx, lease: Lease, until: datetime, *, rate: Micro | None = None, extra: int | None = None) -> Hold:
    """The hold of a lease as it must be to run until then. `rate`: another price than the machine's own."""
    now = hold_of(tx, lease.id) or _new(tx, lease)
    hold = raised(now, rate=lease.observed.price if rate is None else rate, until=micros(until), extra=extra)
    return replace(_kept(hold, lease), gpus=lease.offered.num_gpus)


def _kept(hold: Hold, lease: Lease) -> Hold:
    """The hold with the disk of a machine that its end only stops."""
    destroyed_at = lease_ends.destroyed_at(lease)
    if not lease.grace_s or destroyed_at is None:
        return replace(hold, kept_rate=0, kept_until=0)
    return replace(hold, kept_rate=max(hold.kept_rate, lease.observed.disk_price), kept_until=micros(destroyed_at))


def needed(part: str, whose: tuple[str, str], price: Micro, since: datetime, until: datetime, *, gpus: int = 0) -> Hold:
    """The hold of a part that does not exist yet, for `check`. `whose`: the project and the key."""
    begins = micros(since)
    return Hold(
        lease_id=f"needed-{part}", project=whose[0], key_id=whose[1], gpus=gpus, rate=price, peak=price, since=begins,
        until=micros(until), paid_until=begins,
    )  # fmt: skip


def insert(tx: Tx, lease: Lease) -> None:
    """Write the hold of a new lease. It holds nothing before it is admitted, but a booking that may have been paid."""
    _save(tx, _new(tx, lease), forced=True)


def follow(tx: Tx, old: Lease, new: Lease) -> None:
    """Lower or delete the hold after a change of its lease. Nothing here raises it."""
    if new.state in TERMINAL:
        if old.state not in TERMINAL:
            tx.write("DELETE FROM spend_holds WHERE lease_id = ?", (new.id,))
        return
    if not new.is_prepaid and _holding(new) == _holding(old):
        return  # the hold follows from these, and did after the last change of one of them
    now = hold_of(tx, new.id)
    if now is None:  # it has reappeared
        insert(tx, new)
        return
    changed = _followed(tx, now, old, new)
    if changed != now:
        _save(tx, changed, forced=True)


def _holding(lease: Lease) -> tuple[object, ...]:
    """What the hold of a lease with a meter depends on."""
    return lease.state, lease.instance_id, lease.grace_s, lease.observed.price


def _followed(tx: Tx, hold: Hold, old: Lease, new: Lease) -> Hold:
    if new.is_prepaid:
        hold = _prepaid(tx, hold, new)
    elif new.instance_id is not None:
        hold = replace(hold, paid_until=None)
    if not new.grace_s:
        hold = replace(hold, kept_rate=0, kept_until=0)
    if new.state is LeaseState.PARKED and old.state is not LeaseState.PARKED:
        return parked(hold, new)
    if old.observed.price > new.observed.price and hold.rate == old.observed.price:
        return replace(hold, rate=new.observed.price)
    return hold


def parked(hold: Hold, lease: Lease) -> Hold:
    """The hold of a machine that is stopped: only its disk is billed."""
    return replace(hold, rate=min(hold.rate, lease.observed.disk_price), gpus=0)


def save_lower(tx: Tx, hold: Hold) -> None:
    """Store a hold that holds less than before."""
    _save(tx, hold, forced=True)


def booked_ahead(hours: int) -> int:
    """How long before its use time is paid, at most, where a booking buys so many hours; in microseconds."""
    return (hours * HOUR + _EARLY) // _US


def _new(tx: Tx, lease: Lease) -> Hold:
    tx.ahead(_KEY_ID, (lease.reservation_id,))  # the other leases of an intent ask for the same
    row = tx.fetch_one(_KEY_ID, (lease.reservation_id,))
    now = micros(tx.now())
    return Hold(
        lease_id=lease.id,
        project=lease.project,
        key_id="" if row is None else row["key_id"],
        gpus=lease.offered.num_gpus,
        rate=lease.observed.price,
        peak=lease.observed.price,
        since=now,
        until=now,
        paid_until=_paid_until(lease, now),
        lead=booked_ahead(lease.prepaid.booked_hours) if lease.is_prepaid else 0,
    )


def _paid_until(lease: Lease, since: int) -> int | None:
    """Up to when a lease is paid; None: a meter runs."""
    if lease.is_prepaid and lease.prepaid.booked_until is not None:
        return micros(lease.prepaid.booked_until)
    return None if lease.instance_id is not None else since


def _prepaid(tx: Tx, hold: Hold, lease: Lease) -> Hold:
    """The hold of a prepaid machine by its bookings: an extension that may have been paid is held by its amount."""
    open_now = bookings.open_of(tx, lease.id)
    if open_now is not None and open_now.kind == "extend" and open_now.until_after is not None:
        return replace(hold, booked=open_now.amount, paid_until=micros(open_now.until_after))
    return replace(hold, booked=0, paid_until=_paid_until(lease, hold.since))


def _save(tx: Tx, hold: Hold, *, forced: bool = False) -> None:
    values = [getattr(hold, name) for name in _COLUMNS]
    names = (*_COLUMNS, "checked_at", "forced")
    tx.write(
        f"INSERT INTO spend_holds (lease_id, {', '.join(names)}) VALUES (?{', ?' * len(names)}) "  # noqa: S608
        f"ON CONFLICT (lease_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in names)}",
        [hold.lease_id, *values, micros(tx.now()), int(forced)],
    )


def _hold(row: Mapping[str, Any]) -> Hold:
    return Hold(lease_id=row["lease_id"], **{name: row[name] for name in _COLUMNS})
