"""Sums over the database. They are stored, and triggers change them with the facts: see `migrations`.

So a sum costs the same, however long the history is. It stays when the rows that it is made of are deleted.
"""

from collections.abc import Mapping
from datetime import datetime

from gpuproxy.model.money import Micro, accrued
from gpuproxy.ports import Tx
from gpuproxy.store.rows import LIVE_SQL, moment


def leases_by_state(tx: Tx) -> Mapping[tuple[str, str], int]:
    """The number of leases ever created, by (provider, present state). Deleted ones keep their last state."""
    rows = tx.fetch("SELECT provider, state, number FROM lease_counts WHERE number > 0")
    return {(str(row["provider"]), str(row["state"])): int(row["number"]) for row in rows}


def unknown_since(tx: Tx) -> Mapping[str, tuple[int, datetime]]:
    """The number of creates with an unknown outcome, by provider, and the time of the oldest one."""
    rows = tx.fetch(
        "SELECT provider, count(*) AS n, min(coalesce(call_started_at, created_at)) AS since FROM leases "  # noqa: S608
        f"WHERE state IN {LIVE_SQL} AND instance_id IS NULL "
        "AND (state = 'unknown' OR (state = 'releasing' AND call_started_at IS NOT NULL)) GROUP BY provider"
    )
    return {str(row["provider"]): (int(row["n"]), moment(row["since"])) for row in rows}


def spending(tx: Tx) -> tuple[Micro, Micro]:
    """The total ever spent, and the rate per hour of all running meters and prepaid machines; in micro-dollars."""
    row = tx.fetch_one("SELECT metered + adjusted + booked AS closed FROM spent WHERE id = 1")
    total, rate = 0 if row is None else int(row["closed"]), 0
    for meter in tx.fetch("SELECT opened_at, rate FROM meters WHERE closed_at IS NULL"):
        total += accrued(meter["rate"], tx.now() - moment(meter["opened_at"]))
        rate += meter["rate"]
    prepaid = tx.fetch_one(
        f"SELECT coalesce(sum(price), 0) AS rate FROM leases WHERE state IN {LIVE_SQL} "  # noqa: S608 - our own words
        "AND booked_hours > 0 AND instance_id IS NOT NULL"
    )
    rate += 0 if prepaid is None else int(prepaid["rate"])
    return Micro(total), Micro(rate)


def reservations(tx: Tx, project: str | None, state: str) -> int:
    """The number of reservations of a project, or of all for None, in a state, or in any for ""."""
    rows = tx.fetch("SELECT project, state, number FROM reservation_counts")
    return sum(row["number"] for row in rows if project in (None, row["project"]) and state in ("", row["state"]))


def transactions(tx: Tx, project: str | None) -> int:
    """The number of a project's transactions, or of all for None, except those of open meters."""
    rows = tx.fetch("SELECT project, number FROM transaction_counts")
    return sum(row["number"] for row in rows if project in (None, row["project"]))
