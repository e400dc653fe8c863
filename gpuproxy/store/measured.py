"""Measurements of hosts from the outcomes of leases. They follow the events and can be recomputed from them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gpuproxy.model.leases import Lease, LeaseEvent
from gpuproxy.model.measured import Measured, after_outcome, outcome
from gpuproxy.model.offers import HostKey, ProviderName
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.store.rows import moment, stored

_COLUMNS = tuple(field.name for field in fields(Measured))


def observe(tx: Tx, lease: Lease, event: LeaseEvent, reason: Reason) -> None:
    """Update the host's record after an event; `lease` is its state before the event."""
    observed = outcome(lease.creation.call_started_at, lease.observed.ready_at is not None, event, reason, tx.now())
    if observed is not None:
        before = find(tx, lease.offered.host) or Measured(provider=lease.provider, gpu_model=lease.offered.gpu_model)
        _save(tx, lease.offered.host, after_outcome(before, observed, tx.now()))


def find(tx: Tx, host: HostKey) -> Measured | None:
    """The record of a host; None if nothing was measured there."""
    row = tx.fetch_one("SELECT * FROM measured WHERE host = ?", (host,))
    return None if row is None else _measured(row)


def every(tx: Tx) -> Mapping[HostKey, Measured]:
    """All records, by host."""
    return {HostKey(row["host"]): _measured(row) for row in tx.fetch("SELECT * FROM measured")}


def replay(tx: Tx) -> None:
    """Recompute all records from the events. The result equals the stored records."""
    records: dict[HostKey, Measured] = {}
    ready: set[str] = set()
    for row in tx.fetch(
        "SELECT e.at, e.event, json_extract(e.data, '$.reason') AS reason, l.id, l.host, l.provider, l.gpu_model, "
        "l.call_started_at FROM events e JOIN leases l ON l.id = e.lease_id "
        "WHERE e.event IN ('ready', 'refused', 'release', 'vanished') ORDER BY e.seq"
    ):
        began = row["call_started_at"]
        observed = outcome(
            None if began is None else moment(began),
            row["id"] in ready,
            LeaseEvent(row["event"]),
            Reason(row["reason"] or ""),
            moment(row["at"]),
        )
        if observed is not None:
            host = HostKey(row["host"])
            new = Measured(provider=ProviderName(row["provider"]), gpu_model=row["gpu_model"])
            records[host] = after_outcome(records.get(host, new), observed, moment(row["at"]))
        if row["event"] == LeaseEvent.READY:
            ready.add(row["id"])
    tx.execute("DELETE FROM measured")
    for host, record in records.items():
        _save(tx, host, record)


def _save(tx: Tx, host: HostKey, record: Measured) -> None:
    values = [stored(getattr(record, name)) for name in _COLUMNS]
    tx.execute(
        f"INSERT OR REPLACE INTO measured (host, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(values)})",  # noqa: S608
        [host, *values],
    )


def _measured(row: Mapping[str, Any]) -> Measured:
    values = {name: row[name] for name in _COLUMNS}
    for name in ("sampled_at", "ejected_until"):
        values[name] = None if values[name] is None else moment(values[name])
    return Measured(**values)
