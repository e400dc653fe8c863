"""Measurements of hosts from the outcomes of leases. They follow the events; `replay` recomputes them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from gpuproxy.model.leases import Lease, LeaseEvent
from gpuproxy.model.measured import Measured, after_outcome, outcome
from gpuproxy.model.offers import HostKey
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.store.rows import moment, stored

Table = Literal["measured", "verified_measured"]
"""The current records, or those that `replay` has recomputed up to its checkpoint."""
_COLUMNS = tuple(field.name for field in fields(Measured))


def observe(tx: Tx, lease: Lease, event: LeaseEvent, reason: Reason) -> None:
    """Update the host's record after an event; `lease` is its state before the event."""
    observed = outcome(lease.creation.call_started_at, lease.observed.ready_at is not None, event, reason, tx.now())
    if observed is not None:
        before = find(tx, lease.offered.host) or Measured(provider=lease.provider, gpu_model=lease.offered.gpu_model)
        save(tx, lease.offered.host, after_outcome(before, observed, tx.now()))


def find(tx: Tx, host: HostKey, table: Table = "measured") -> Measured | None:
    """The record of a host; None if nothing was measured there."""
    row = tx.fetch_one(f"SELECT * FROM {table} WHERE host = ?", (host,))  # noqa: S608
    return None if row is None else _measured(row)


def every(tx: Tx) -> Mapping[HostKey, Measured]:
    """All records, by host."""
    return {HostKey(row["host"]): _measured(row) for row in tx.fetch("SELECT * FROM measured")}


def save(tx: Tx, host: HostKey, record: Measured, table: Table = "measured") -> None:
    """Store the record of a host."""
    values = [stored(getattr(record, name)) for name in _COLUMNS]
    tx.write(
        f"INSERT INTO {table} (host, {', '.join(_COLUMNS)}) VALUES (?{', ?' * len(values)}) "  # noqa: S608
        f"ON CONFLICT (host) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)}",
        [host, *values],
    )


def _measured(row: Mapping[str, Any]) -> Measured:
    values = {name: row[name] for name in _COLUMNS}
    for name in ("sampled_at", "ejected_until"):
        values[name] = None if values[name] is None else moment(values[name])
    return Measured(**values)
