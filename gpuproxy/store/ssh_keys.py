"""Public SSH keys of projects. A deleted key keeps its row, so that deleting it again differs from a wrong id."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class SshKeyRow:
    """One public key that is installed on every machine of a project."""

    id: str
    project: str
    name: str
    public_key: str
    """One line in OpenSSH format."""
    fingerprint: str
    """`SHA256:...`"""
    created_at: datetime


def add(tx: Tx, key: SshKeyRow) -> SshKeyRow:
    """Add a key and return its row. If the project has or had the key, return the existing row, undeleted."""
    tx.execute(
        "INSERT INTO ssh_keys (id, project, name, public_key, fingerprint, created_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (project, fingerprint) DO UPDATE SET deleted_at = NULL",
        (key.id, key.project, key.name, key.public_key, key.fingerprint, micros(key.created_at)),
    )
    row = tx.fetch_one(f"{_SELECT} WHERE project = ? AND fingerprint = ?", (key.project, key.fingerprint))
    return key if row is None else _key(row)


def listed(tx: Tx, project: str | None) -> tuple[SshKeyRow, ...]:
    """The keys of a project, or of all projects for None; newest first."""
    rows = tx.fetch(
        f"{_SELECT} WHERE deleted_at IS NULL AND (? IS NULL OR project = ?) ORDER BY created_at DESC, id",
        (project, project),
    )
    return tuple(_key(row) for row in rows)


def delete(tx: Tx, project: str | None, key_id: str) -> bool:
    """Delete a key; False if the project (None: any project) never had it."""
    changed = tx.execute(
        "UPDATE ssh_keys SET deleted_at = coalesce(deleted_at, ?) WHERE id = ? AND (? IS NULL OR project = ?)",
        (micros(tx.now()), key_id, project, project),
    )
    return changed > 0


_SELECT = "SELECT id, project, name, public_key, fingerprint, created_at FROM ssh_keys"


def _key(row: Mapping[str, Any]) -> SshKeyRow:
    return SshKeyRow(
        id=row["id"],
        project=row["project"],
        name=row["name"],
        public_key=row["public_key"],
        fingerprint=row["fingerprint"],
        created_at=moment(row["created_at"]),
    )
