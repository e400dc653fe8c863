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


def checkpoint(tx: Tx) -> int:
    """The sequence number of the last event that was read; 0 before the first."""
    return int(meta.read(tx, meta.VERIFIED) or 0)


def fold(tx: Tx, most: int) -> int:
    """Read at most `most` events after the checkpoint and move it; returns their number."""
    rows = tx.fetch(
        "SELECT e.seq, e.at, e.event, e.state, e.reservation_id, json_extract(e.data, '$.reason') AS reason, "
        "json_extract(e.data, '$.instance_id') AS instance_id, l.id, l.host, l.provider, l.gpu_model, l.created_at, "
        "l.call_started_at FROM events e LEFT JOIN leases l ON l.id = e.lease_id WHERE e.seq > ? ORDER BY e.seq LIMIT ?",
        (checkpoint(tx), most),
    )
    pasts: dict[str, _Past] = {}
    for row in rows:
        if row["id"] is not None:
            if row["id"] not in pasts:
                pasts[row["id"]] = _past(tx, row)
            _fold_one(tx, row, pasts[row["id"]])
    if rows:
        meta.write(tx, meta.VERIFIED, str(rows[-1]["seq"]))
    return len(rows)


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


def _fold_one(tx: Tx, row: Mapping[str, Any], past: _Past) -> None:
    before = _Past(past.counted, past.was_ready)
    past.follow(row)
    picks = past.counted - before.counted
    if picks or row["event"] == REQUESTED:
        picked_at = row["created_at"] if row["event"] == REQUESTED else 0
        tx.execute(
            "INSERT INTO verified_hosts (host, provider, picks, last_picked_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (host) DO UPDATE SET picks = picks + excluded.picks, "
            "last_picked_at = max(last_picked_at, excluded.last_picked_at)",
            (row["host"], row["provider"], picks, picked_at),
        )
    if row["event"] != REQUESTED:
        _measure(tx, row, before)


def _measure(tx: Tx, row: Mapping[str, Any], before: _Past) -> None:
    began = None if row["call_started_at"] is None else moment(row["call_started_at"])
    at = moment(row["at"])
    observed = outcome(began, before.was_ready, LeaseEvent(row["event"]), row["reason"] or "", at)
    if observed is not None:
        host = HostKey(row["host"])
        new = Measured(provider=ProviderName(row["provider"]), gpu_model=row["gpu_model"])
        record = measured.find(tx, host, "verified_measured") or new
        measured.save(tx, host, after_outcome(record, observed, at), "verified_measured")
