"""The audit trail: who asked for what. A row is written in the transaction of the change, and never changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from gpuproxy.model.demands import Caller
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment

Action = Literal[
    "reservation_rented", "reservation_extended", "reservation_released",
    "instance_destroyed", "instance_stopped", "instance_started",
    "pool_provisioned", "pool_enabled", "pool_disabled", "pool_failover", "pool_cleaned_up", "volume_deleted",
    "key_created", "key_revoked", "ssh_key_added", "ssh_key_deleted", "strategy_set", "limit_set",
]  # fmt: skip
COMMAND_LINE = Caller(project="", role="admin")
"""Who uses the database directly, on the server's machine: neither a key nor a user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One change that somebody asked for."""

    seq: int
    at: datetime
    project: str
    """The project that was changed; "" for all."""
    user_id: str
    """"" for a key without a user."""
    key_id: str
    """"" for a login. Both are empty for the command line on the server's machine."""
    action: Action
    subject: str
    """The id of what was changed: a reservation, a contract, a machine_id, a key."""
    detail: str
    """Further facts, for people. Never a secret."""


def record(tx: Tx, caller: Caller, action: Action, subject: str, detail: str = "", *, project: str) -> None:
    """Append what `caller` has changed in `project`."""
    tx.write(
        "INSERT INTO audit (seq, at, project, user_id, key_id, action, subject, detail) "
        "SELECT coalesce(max(seq), 0) + 1, ?, ?, ?, ?, ?, ?, ? FROM audit",
        (micros(tx.now()), project, caller.user_id, caller.key_id, action, subject, detail),
    )


def newest(tx: Tx, project: str | None, before: int, limit: int) -> tuple[AuditEvent, ...]:
    """At most `limit` events with a lower number than `before` (0: any), newest first. None: of all projects."""
    of_project, which = ("", ()) if project is None else ("project = ? AND ", (project,))
    rows = tx.fetch(
        f"SELECT * FROM audit WHERE {of_project}seq < ? ORDER BY seq DESC LIMIT ?",  # noqa: S608 - our own words
        (*which, before or 2**63 - 1, limit),
    )
    return tuple(_event(row) for row in rows)


def _event(row: Mapping[str, Any]) -> AuditEvent:
    return AuditEvent(**{**row, "at": moment(row["at"])})
