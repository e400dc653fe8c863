"""What the choice of offers must remember between calls: when an account may create again, how busy each host is."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gpuproxy.model.load import HostLoad
from gpuproxy.model.measured import Measured
from gpuproxy.model.offers import HostKey, ProviderName
from gpuproxy.ports import Tx
from gpuproxy.store import measured
from gpuproxy.store.rows import micros, moment

Account = tuple[ProviderName, str]


def next_create_at(tx: Tx, account: Account) -> datetime:
    """The earliest moment for the account's next create."""
    row = tx.fetch_one("SELECT next_create_at FROM accounts WHERE provider = ? AND account = ?", account)
    return tx.now() if row is None else max(tx.now(), moment(row["next_create_at"]))


def take_turn(tx: Tx, account: Account, at: datetime, interval: float) -> None:
    """One create is planned for `at`: the next one follows an interval later."""
    _set_next(tx, account, at + timedelta(seconds=interval))


def hold(tx: Tx, account: Account, until: datetime) -> None:
    """The provider said to wait."""
    if next_create_at(tx, account) < until:
        _set_next(tx, account, until)


def give_back(tx: Tx, account: Account, interval: float) -> None:
    """Turns of creates that will not be sent are free again: follow the last one that was or will be."""
    row = tx.fetch_one(
        "SELECT max(send_at) AS last FROM leases WHERE provider = ? AND account = ? "
        "AND (state = 'requested' OR call_started_at IS NOT NULL)",
        account,
    )
    last = None if row is None or row["last"] is None else moment(row["last"])
    free = tx.now() if last is None else last + timedelta(seconds=interval)
    if free < next_create_at(tx, account):
        _set_next(tx, account, free)


def loads(tx: Tx) -> Mapping[HostKey, HostLoad]:
    """The counters of all hosts that we ever picked, with what was measured there."""
    rows = tx.fetch("SELECT host, live, picks, last_picked_at FROM hosts")
    starting, records, now = _starting(tx), measured.every(tx), tx.now()
    return {host: _load(row, starting.get(host, 0), records.get(host), now) for row in rows if (host := row["host"])}


def _starting(tx: Tx) -> Mapping[HostKey, int]:
    """Creates in flight, unknown ones, and machines that are not ready yet."""
    rows = tx.fetch(
        "SELECT host, count(*) AS n FROM leases "
        "WHERE state IN ('requested', 'unknown', 'starting', 'active', 'parked', 'releasing') "  # as the index says
        "AND state IN ('requested', 'unknown', 'starting') GROUP BY host"
    )
    return {HostKey(row["host"]): row["n"] for row in rows}


def _load(row: Mapping[str, Any], starting: int, record: Measured | None, now: datetime) -> HostLoad:
    load = HostLoad(
        live=row["live"], starting=starting, picks=row["picks"], last_picked_at=moment(row["last_picked_at"])
    )
    if record is None:
        return load
    samples = record.fresh(now)
    out = record.ejected_until is not None and record.ejected_until > now
    return replace(
        load,
        gpu_model=record.gpu_model,
        response_ms=int(record.response_ms) if samples else 0,
        samples=samples,
        ejected_until=record.ejected_until if out else None,
    )


def recount(tx: Tx) -> None:
    """Recompute every counter from the leases and events: they must agree, and after a crash this makes them."""
    measured.replay(tx)
    tx.execute("DELETE FROM hosts")
    tx.execute(
        "INSERT INTO hosts (host, provider, live, picks, last_picked_at) "
        "SELECT host, min(provider), "
        "sum(state IN ('requested', 'unknown', 'starting', 'active', 'parked', 'releasing')), "
        "sum(NOT (state IN ('released', 'failed', 'lost') AND instance_id IS NULL)), max(created_at) "
        "FROM leases GROUP BY host"
    )


def _set_next(tx: Tx, account: Account, at: datetime) -> None:
    tx.execute(
        "INSERT INTO accounts (provider, account, next_create_at) VALUES (?, ?, ?) "
        "ON CONFLICT (provider, account) DO UPDATE SET next_create_at = excluded.next_create_at",
        (*account, micros(at)),
    )
