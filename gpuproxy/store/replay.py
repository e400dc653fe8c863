"""The counters and measurements of hosts as they follow from the events, up to a checkpoint.

`fold` moves the checkpoint. What follows from the events up to it is stored in tables of its own, so that no event is
read twice: a start costs what happened since the last one, not the whole history.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuproxy.model.leases import LIVE, LeaseEvent, LeaseState
from gpuproxy.model.measured import Measured, after_outcome, outcome
from gpuproxy.model.offers import HostKey, ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.store import measured, meta
from gpuproxy.store.rows import moment

REQUESTED = "requested"
"""The first event of a lease. It is not a LeaseEvent, because it changes no state."""


@dataclass(slots=True)
class _Past:
    """What an event needs to know of a lease's earlier events."""

    counted: bool = False
    """True if the lease counted as a pick of its host."""
    was_ready: bool = False

    def follow(self, row: Mapping[str, Any]) -> None:
        """Take the next event into account."""
        self.counted = LeaseState(row["state"]) in LIVE or row["instance_id"] is not None
        self.was_ready = self.was_ready or row["event"] == LeaseEvent.READY


@dataclass(slots=True)
class _Host:
    """What the events say about one host so far."""

    provider: str
    gpu_model: str
    picks: int
    last_picked_at: int
    measured: Measured | None


def checkpoint(tx: Tx) -> int:
    """The sequence number of the last event that was read; 0 before the first."""
    return int(meta.read(tx, meta.VERIFIED) or 0)


def fold(tx: Tx, most: int) -> int:
    """Move the checkpoint by at most `most` events; returns by how many, including those of deleted leases."""
    since = checkpoint(tx)
    rows = tx.fetch(
        "SELECT e.seq, e.at, e.event, e.state, e.reservation_id, json_extract(e.data, '$.reason') AS reason, "
        "json_extract(e.data, '$.instance_id') AS instance_id, l.id, l.host, l.provider, l.gpu_model, l.created_at, "
        "l.call_started_at FROM events e CROSS JOIN leases l ON l.id = e.lease_id "
        "WHERE e.seq > ? AND e.seq <= ? ORDER BY e.seq",
        (since, since + most),
    )
    pasts: dict[str, _Past] = {}
    hosts: dict[HostKey, _Host] = {}
    for row in rows:
        if row["id"] not in pasts:
            pasts[row["id"]] = _past(tx, row)
        if row["host"] not in hosts:
            hosts[row["host"]] = _host(tx, row)
        _follow(row, pasts[row["id"]], hosts[row["host"]])
    for key, host in hosts.items():
        _save(tx, key, host)
    newest = tx.fetch_one("SELECT max(seq) AS seq FROM events")
    last = 0 if newest is None or newest["seq"] is None else int(newest["seq"])
    until = max(since, min(since + most, last))
    if until > since:
        meta.write(tx, meta.VERIFIED, str(until))
    return until - since


def restore_measured(tx: Tx) -> None:
    """Replace the current measurements by those at the checkpoint."""
    tx.execute("DELETE FROM measured")
    tx.execute("INSERT INTO measured SELECT * FROM verified_measured")


def _past(tx: Tx, row: Mapping[str, Any]) -> _Past:
    past = _Past()
    if row["event"] != REQUESTED:
        earlier = tx.fetch(
            "SELECT event, state, json_extract(data, '$.instance_id') AS instance_id FROM events "
            "WHERE reservation_id = ? AND lease_id = ? AND seq < ? ORDER BY seq",
            (row["reservation_id"], row["id"], row["seq"]),
        )
        for each in earlier:
            past.follow(each)
    return past


def _host(tx: Tx, row: Mapping[str, Any]) -> _Host:
    key = HostKey(row["host"])
    stored = tx.fetch_one("SELECT picks, last_picked_at FROM verified_hosts WHERE host = ?", (key,))
    return _Host(
        provider=row["provider"],
        gpu_model=row["gpu_model"],
        picks=0 if stored is None else stored["picks"],
        last_picked_at=0 if stored is None else stored["last_picked_at"],
        measured=measured.find(tx, key, "verified_measured"),
    )


def _follow(row: Mapping[str, Any], past: _Past, host: _Host) -> None:
    counted, was_ready = past.counted, past.was_ready
    past.follow(row)
    host.picks += past.counted - counted
    if row["event"] == REQUESTED:
        host.last_picked_at = max(host.last_picked_at, row["created_at"])
        return
    at = moment(row["at"])
    began = None if row["call_started_at"] is None else moment(row["call_started_at"])
    observed = outcome(began, was_ready, LeaseEvent(row["event"]), Reason(row["reason"] or ""), at)
    if observed is not None:
        new = Measured(provider=ProviderName(host.provider), gpu_model=host.gpu_model)
        host.measured = after_outcome(host.measured or new, observed, at)


def _save(tx: Tx, key: HostKey, host: _Host) -> None:
    tx.execute(
        "INSERT INTO verified_hosts (host, provider, picks, last_picked_at) VALUES (?, ?, ?, ?) ON CONFLICT (host) "
        "DO UPDATE SET provider = excluded.provider, picks = excluded.picks, last_picked_at = excluded.last_picked_at",
        (key, host.provider, host.picks, host.last_picked_at),
    )
    if host.measured is not None:
        measured.save(tx, key, host.measured, "verified_measured")
