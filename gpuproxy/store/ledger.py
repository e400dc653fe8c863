"""The ledger: what machines and volumes cost, in double entry. Rows are only appended; triggers refuse every change.

A transfer is two rows or more whose amounts add up to 0. A positive amount is a debit: the cost of a project, or the
surplus of a provider account. The credit is on the account of the provider that is paid. The surplus is the cost of a
machine that appeared after its lease had ended, of a second machine of one create, and of one that the database did not
know: nobody wanted it, and no project pays for it.

Each row belongs to a period. The cost of a meter belongs to the time that it ran, cut at every full hour (UTC). What is
paid in advance, and a refund, belong to the moment of the payment. An adjustment belongs to the machine's life.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from gpuproxy.model.leases import LeaseId
from gpuproxy.model.money import Micro
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros

Kind = Literal["gpu", "storage", "volume", "bandwidth", "booking", "refund", "adjustment", "surplus"]
_COST, _SURPLUS, _PROVIDER = "cost:", "surplus:", "provider:"
_DEBITED = "substr(account, 1, 9) <> 'provider:'"
_HOUR = 3_600_000_000
_MOST = 100_000_000_000_000
"""Rates above it are cut off, as in the sums of migration 9, so that a meter can always be closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One cost of a lease. Times are microseconds since 1970, the amount is in micro-dollars and negative for a refund.

    `gpu_time`: GPUs times microseconds that were paid for.
    """

    kind: Kind
    amount: int
    since: int
    until: int
    gpu_time: int = 0


def spent(tx: Tx, *, project: str | None, key_id: str | None, since: datetime, until: datetime) -> Micro:
    """What was spent from `since` until before `until`, in micro-dollars: postings, and what open meters have accrued.

    `project` None: all projects, and the surplus too, which belongs to none. `key_id` None: all keys; otherwise what
    was rented with this API key, without surplus. A posting whose period is only partly within the window counts pro
    rata. Adjacent windows add up exactly. Never fails; a window without costs has 0. Refunds can make it negative.
    """
    return Micro(spent_within(tx, (micros(since), micros(min(until, tx.now()))), project=project, key_id=key_id))


def spent_within(tx: Tx, window: tuple[int, int], *, project: str | None, key_id: str | None) -> int:
    """As `spent`, for a window in microseconds since 1970: from the first until before the second."""
    posted = sum(_within(tx, where, values, window) for where, values in _debits(tx, project, key_id))
    return posted + sum(part(each, each.amount, window) for _, each in unposted(tx, project, key_id))


def spent_on(tx: Tx, lease_id: str, window: tuple[int, int]) -> int:
    """What was spent on one lease within a window in microseconds since 1970, surplus too; negative by refunds."""
    posted = _within(tx, f"lease_id = ? AND {_DEBITED}", (lease_id,), window)
    meter = tx.fetch_one(
        "SELECT m.opened_at, m.posted_until, m.rate, m.kind, l.num_gpus FROM meters m "
        "CROSS JOIN leases l ON l.id = m.lease_id WHERE m.lease_id = ? AND m.closed_at IS NULL",
        (lease_id,),
    )
    hours = () if meter is None else _hours(meter, micros(tx.now()))
    return posted + sum(part(each, each.amount, window) for each in hours)


def refunded(tx: Tx, window: tuple[int, int], *, project: str | None, key_id: str | None) -> Sequence[str]:
    """The leases with a refund, or an adjustment to less, within a window in microseconds since 1970."""
    found = {
        str(row["lease_id"])
        for where, values in _debits(tx, project, key_id)
        for row in tx.fetch(
            f"SELECT DISTINCT lease_id FROM ledger WHERE {where} AND amount < 0 AND {_DEBITED} "  # noqa: S608
            "AND until >= ? AND since < ?",
            (*values, *window),
        )
    }
    return sorted(found)


def first_debit(tx: Tx, since: int, *, project: str | None, key_id: str | None) -> int | None:
    """When the first posting begins that ends after `since`, in microseconds since 1970; None: there is none."""
    firsts = [
        tx.fetch_one(
            f"SELECT min(since) AS first FROM ledger WHERE {where} AND amount > 0 AND until > ?",  # noqa: S608
            (*values, since),
        )
        for where, values in _debits(tx, project, key_id)
    ]
    return min((int(row["first"]) for row in firsts if row is not None and row["first"] is not None), default=None)


def _debits(tx: Tx, project: str | None, key_id: str | None) -> Sequence[tuple[str, tuple[str, ...]]]:
    """Conditions for the debits of a project, of a key, or of all, each with its values."""
    if key_id is None:
        return [("account = ?", (account,)) for account in debited_accounts(tx, project)]
    of_project = "" if project is None else " AND project = ?"
    values = (key_id,) if project is None else (key_id, project)
    return [(f"key_id = ? AND key_id <> '' AND substr(account, 1, 5) = '{_COST}'{of_project}", values)]


def post(tx: Tx, lease_id: LeaseId, charge: Charge, *, surplus: bool) -> None:
    """Post a cost of a lease, if it is not 0. `surplus`: the machine had been given up before."""
    _post(tx, lease_id, [charge], surplus=surplus)


def post_meter(tx: Tx, meter: Mapping[str, Any], until: int) -> None:
    """Post the cost of a meter up to a time, from where it is posted already, cut at each full hour.

    `meter` has lease_id, opened_at, posted_until, rate, kind and num_gpus. The row of `meters` is updated.
    """
    _post(tx, meter["lease_id"], _hours(meter, until), surplus=meter["kind"] == "surplus")
    tx.write(
        "UPDATE meters SET posted_until = ? WHERE lease_id = ? AND opened_at = ? AND closed_at IS NULL",
        (until, meter["lease_id"], meter["opened_at"]),
    )


def has_unposted_hours(tx: Tx) -> bool:
    """True if `post_hours` has something to do."""
    row = tx.fetch_one(
        "SELECT 1 AS one FROM meters WHERE closed_at IS NULL AND coalesce(posted_until, opened_at) < ? LIMIT 1",
        (_hour_begun(tx),),
    )
    return row is not None


def post_hours(tx: Tx, most: int) -> int:
    """Post the full hours of at most `most` open meters that have unposted ones; returns of how many."""
    hour = _hour_begun(tx)
    rows = tx.fetch(
        "SELECT m.lease_id, m.opened_at, m.posted_until, m.rate, m.kind, l.num_gpus FROM meters m "
        "CROSS JOIN leases l ON l.id = m.lease_id WHERE m.closed_at IS NULL "
        "AND coalesce(m.posted_until, m.opened_at) < ? ORDER BY m.lease_id LIMIT ?",
        (hour, most),
    )
    for row in rows:
        post_meter(tx, row, hour)
    return len(rows)


def _hour_begun(tx: Tx) -> int:
    """The last full hour (UTC)."""
    return micros(tx.now()) // _HOUR * _HOUR


def is_surplus(account: str) -> bool:
    """True for the accounts of surplus."""
    return account.startswith(_SURPLUS)


def part(charge: Charge, of: int, window: tuple[int, int]) -> int:
    """The part of a cost's amount or GPU time (`of`) that belongs to a window, in microseconds since 1970.

    It is a difference of two sums, so that adjacent windows add up exactly. 0 for a moment's payment.
    """
    begin, end = max(window[0], charge.since), min(window[1], charge.until)
    if end <= begin:
        return 0
    lasted = charge.until - charge.since
    return of * (end - charge.since) // lasted - of * (begin - charge.since) // lasted


def unposted(tx: Tx, project: str | None, key_id: str | None) -> Iterable[tuple[Mapping[str, Any], Charge]]:
    """What open meters have accrued and the ledger does not have yet, by hour, each with its meter.

    With a project or a key, the surplus is left out, as in `spent`.
    """
    rows = tx.fetch(
        "SELECT m.lease_id, m.opened_at, m.posted_until, m.rate, m.kind, l.num_gpus, l.project, l.provider, r.key_id "
        "FROM meters m CROSS JOIN leases l ON l.id = m.lease_id CROSS JOIN reservations r ON r.id = l.reservation_id "
        "WHERE m.closed_at IS NULL"
    )
    now, whole = micros(tx.now()), project is None and key_id is None
    for row in rows:
        of_project, of_key = project in (None, row["project"]), key_id in (None, row["key_id"])
        if of_project and of_key and (whole or row["kind"] != "surplus"):
            yield from ((row, each) for each in _hours(row, now))


def is_debited(account: str) -> bool:
    """True for the accounts of costs and surplus, False for those of the providers that are paid."""
    return account.startswith((_COST, _SURPLUS))


def metered(meter: Mapping[str, Any], until: int) -> int:
    """The cost of a meter from its opening to a time, in micro-dollars, rounded down."""
    return min(int(meter["rate"]), _MOST) * (until - int(meter["opened_at"])) // _HOUR


def debited_accounts(tx: Tx, project: str | None) -> Sequence[str]:
    """The account of a project's costs; None: of all projects, and those of the surplus."""
    if project is not None:
        return (_COST + project,)
    rows = tx.fetch("SELECT account FROM ledger_balances ORDER BY account")
    return [row["account"] for row in rows if is_debited(row["account"])]


def _within(tx: Tx, where: str, values: tuple[str, ...], window: tuple[int, int]) -> int:
    """The postings of a window. Those that are only partly within it are added up exactly, in Python."""
    since, until = window
    whole = tx.fetch_one(
        f"SELECT coalesce(sum(amount), 0) AS amount FROM ledger WHERE {where} AND until >= ? AND until <= ? "  # noqa: S608
        "AND since >= ? AND since < ?",
        (*values, since, until, since, until),
    )
    parts = tx.fetch(
        f"SELECT amount, since, until FROM ledger WHERE {where} AND until > ? AND since < ? "  # noqa: S608
        "AND (since < ? OR until > ?)",
        (*values, since, until, since, until),
    )
    charges = (Charge(kind="gpu", amount=row["amount"], since=row["since"], until=row["until"]) for row in parts)
    return (0 if whole is None else int(whole["amount"])) + sum(part(each, each.amount, window) for each in charges)


def _hours(meter: Mapping[str, Any], until: int) -> Iterable[Charge]:
    """The unposted cost of a meter up to a time, by hour. The amounts of a meter add up exactly to its cost."""
    start = meter["opened_at"] if meter["posted_until"] is None else meter["posted_until"]
    before = metered(meter, start)
    while start < until:
        end = min(until, (start // _HOUR + 1) * _HOUR)
        after = metered(meter, end)
        amount, before = after - before, after
        gpu_time = meter["num_gpus"] * (end - start) if meter["kind"] == "gpu" else 0
        yield Charge(kind=meter["kind"], amount=amount, since=start, until=end, gpu_time=gpu_time)
        start = end


def _post(tx: Tx, lease_id: str, charges: Iterable[Charge], *, surplus: bool) -> None:
    charges = [each for each in charges if each.amount]
    if not charges:
        return
    [of] = tx.fetch(
        "SELECT l.project, l.provider, l.account, r.key_id FROM leases l "
        "CROSS JOIN reservations r ON r.id = l.reservation_id WHERE l.id = ?",
        (lease_id,),
    )
    paid = f"{of['provider']}:{of['account']}"
    debit = f"{_SURPLUS}{paid}" if surplus else f"{_COST}{of['project']}"
    tx.write(
        "INSERT INTO ledger_leases (lease_id, reservation_id, instance_id, gpu_model, num_gpus, labels) "
        "SELECT l.id, l.reservation_id, coalesce(l.instance_id, ''), l.gpu_model, l.num_gpus, r.labels FROM leases l "
        "CROSS JOIN reservations r ON r.id = l.reservation_id WHERE l.id = ? ON CONFLICT DO NOTHING",
        (lease_id,),
    )
    row = tx.fetch_one("SELECT coalesce(max(seq), 0) + 1 AS next FROM ledger")
    seq = 1 if row is None else int(row["next"])
    for each in charges:
        kind = "surplus" if surplus else each.kind
        dated = (micros(tx.now()), each.since, each.until)
        about = (kind, lease_id, of["project"], of["key_id"], of["provider"], of["account"])
        tx.write(
            "INSERT INTO ledger (seq, transfer, at, since, until, account, kind, lease_id, project, key_id, provider, "
            "provider_account, amount, gpu_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?), "
            "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(seq, seq, *dated, debit, *about, each.amount, each.gpu_time),
                *(seq + 1, seq, *dated, f"{_PROVIDER}{paid}", *about, -each.amount, 0),
            ),
        )
        seq += 2
