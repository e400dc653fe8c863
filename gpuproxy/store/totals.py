"""Sums over the database, for metrics."""

from collections.abc import Mapping
from datetime import datetime

from gpuproxy.model.money import Micro, accrued
from gpuproxy.ports import Tx
from gpuproxy.store.rows import moment


def leases_by_state(tx: Tx) -> Mapping[tuple[str, str], int]:
    """The number of leases by (provider, state)."""
    rows = tx.fetch("SELECT provider, state, count(*) AS n FROM leases GROUP BY provider, state")
    return {(str(row["provider"]), str(row["state"])): int(row["n"]) for row in rows}


def unknown_since(tx: Tx) -> Mapping[str, tuple[int, datetime]]:
    """The number of creates with an unknown outcome, by provider, and the time of the oldest one."""
    rows = tx.fetch(
        "SELECT provider, count(*) AS n, min(coalesce(call_started_at, created_at)) AS since FROM leases "
        "WHERE instance_id IS NULL AND (state = 'unknown' OR (state = 'releasing' AND call_started_at IS NOT NULL)) "
        "GROUP BY provider"
    )
    return {str(row["provider"]): (int(row["n"]), moment(row["since"])) for row in rows}


def spending(tx: Tx) -> tuple[Micro, Micro]:
    """The total ever spent, and the rate per hour of all running meters; in micro-dollars."""
    row = tx.fetch_one("SELECT coalesce(sum(amount), 0) AS short FROM settlements")
    total, rate = 0 if row is None else int(row["short"]), 0
    for row in tx.fetch("SELECT opened_at, closed_at, rate FROM meters"):
        ends = tx.now() if row["closed_at"] is None else moment(row["closed_at"])
        total += accrued(row["rate"], ends - moment(row["opened_at"]))
        rate += row["rate"] if row["closed_at"] is None else 0
    return Micro(total), Micro(rate)
