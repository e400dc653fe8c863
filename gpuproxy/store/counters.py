"""The load of each host, for the strategies: counters that follow the leases and can be recomputed from the events."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from gpuproxy.model.leases import LIVE, Lease
from gpuproxy.model.load import HostLoad
from gpuproxy.model.measured import Measured
from gpuproxy.model.offers import HostKey
from gpuproxy.ports import Tx
from gpuproxy.store import measured, replay
from gpuproxy.store.rows import LIVE_SQL, micros, moment

_BATCH = 10_000
"""Events that are read at once."""


def picked(tx: Tx, lease: Lease) -> None:
    """Count a new lease."""
    tx.write(
        "INSERT INTO hosts (host, provider, live, picks, last_picked_at) VALUES (?, ?, 1, 1, ?) "
        "ON CONFLICT (host) DO UPDATE SET live = hosts.live + 1, picks = hosts.picks + 1, "
        "last_picked_at = excluded.last_picked_at",
        (lease.offered.host, lease.provider, micros(lease.created_at)),
    )


def follow(tx: Tx, old: Lease, new: Lease) -> None:
    """Update the counters after a lease has changed."""
    if (new.state in LIVE) != (old.state in LIVE):
        step = 1 if new.state in LIVE else -1
        tx.write("UPDATE hosts SET live = live + ? WHERE host = ?", (step, new.offered.host))
    if _counts_as_pick(new) != _counts_as_pick(old):
        step = 1 if _counts_as_pick(new) else -1
        tx.write("UPDATE hosts SET picks = picks + ? WHERE host = ?", (step, new.offered.host))


def recount(tx: Tx) -> None:
    """Recompute all counters and measurements from the events. Normally they already agree.

    Events are read once in the life of a database: `replay` stores what follows from the earlier ones.
    """
    while replay.fold(tx, _BATCH):
        pass
    replay.restore_measured(tx)
    tx.write("DELETE FROM hosts")
    tx.write(
        "INSERT INTO hosts (host, provider, live, picks, last_picked_at) "  # noqa: S608 - our own words
        "SELECT v.host, v.provider, coalesce(l.live, 0), v.picks, v.last_picked_at FROM verified_hosts v LEFT JOIN "
        f"(SELECT host, count(*) AS live FROM leases WHERE state IN {LIVE_SQL} GROUP BY host) l ON l.host = v.host"
    )


def loads(tx: Tx) -> Mapping[HostKey, HostLoad]:
    """The counters and measurements of all hosts that were ever picked."""
    rows = tx.fetch("SELECT host, live, picks, last_picked_at FROM hosts")
    starting, records, now = _starting(tx), measured.every(tx), tx.now()
    return {host: _load(row, starting.get(host, 0), records.get(host), now) for row in rows if (host := row["host"])}


def _counts_as_pick(lease: Lease) -> bool:
    """True unless the create is proven not to have happened."""
    return lease.state in LIVE or lease.instance_id is not None


def _starting(tx: Tx) -> Mapping[HostKey, int]:
    """The number of pending creates, unknown creates and machines that aren't ready yet, by host."""
    rows = tx.fetch(
        f"SELECT host, count(*) AS n FROM leases WHERE state IN {LIVE_SQL} "  # noqa: S608 - as the index says
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
