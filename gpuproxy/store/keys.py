"""API keys. Only their SHA-256 is stored, and a visible prefix to distinguish them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuproxy.model.users import Role
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """One API key, without its secret text."""

    id: str
    project: str
    name: str
    role: Role
    prefix: str
    sha256: str
    created_at: datetime
    revoked_at: datetime | None = None
    user_id: str = ""
    """The user who created it; disabling the user disables the key. "" for keys without a user."""


def insert(tx: Tx, key: KeyRow) -> None:
    """Insert a new key."""
    tx.execute(
        "INSERT INTO api_keys (id, project, name, role, prefix, sha256, created_at, user_id) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (key.id, key.project, key.name, key.role, key.prefix, key.sha256, micros(key.created_at), key.user_id),
    )


def find(tx: Tx, sha256: str) -> KeyRow | None:
    """The key with this hash; None if there is none, it is revoked, or its user is disabled."""
    row = tx.fetch_one(f"{_SELECT} WHERE sha256 = ? AND revoked_at IS NULL AND {_OF_NO_DISABLED_USER}", (sha256,))
    return None if row is None else _key(row)


def exists(tx: Tx, key_id: str) -> bool:
    """True if there is a key with this id, revoked or not."""
    return tx.fetch_one("SELECT 1 AS one FROM api_keys WHERE id = ?", (key_id,)) is not None


def listed(tx: Tx, project: str | None) -> tuple[KeyRow, ...]:
    """The keys of a project, or of all projects for None, including revoked ones; newest first."""
    rows = tx.fetch(f"{_SELECT} WHERE ? IS NULL OR project = ? ORDER BY created_at DESC, id", (project, project))
    return tuple(_key(row) for row in rows)


def revoke(tx: Tx, project: str | None, key_id: str) -> bool:
    """Revoke a key; False if the project (None: any project) has no such key."""
    changed = tx.execute(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?) WHERE id = ? AND (? IS NULL OR project = ?)",
        (micros(tx.now()), key_id, project, project),
    )
    return changed > 0


def revoke_others(tx: Tx, key: KeyRow) -> int:
    """Revoke all other keys without a user that have the same name, role and project. Returns their number."""
    return tx.execute(
        "UPDATE api_keys SET revoked_at = ? WHERE revoked_at IS NULL AND sha256 <> ? AND user_id = '' "
        "AND (name, role, project) = (?, ?, ?)",
        (micros(tx.now()), key.sha256, key.name, key.role, key.project),
    )


def hide_prefixes(tx: Tx, shown: str) -> None:
    """Clear the visible prefix of keys that don't begin with `shown`: it could be most of a short key."""
    tx.execute("UPDATE api_keys SET prefix = '' WHERE substr(prefix, 1, ?) <> ?", (len(shown), shown))


_OF_NO_DISABLED_USER = "user_id NOT IN (SELECT id FROM users WHERE disabled_at IS NOT NULL)"
_SELECT = "SELECT id, project, name, role, prefix, sha256, created_at, revoked_at, user_id FROM api_keys"


def _key(row: Mapping[str, Any]) -> KeyRow:
    ended = row["revoked_at"]
    return KeyRow(
        id=row["id"],
        project=row["project"],
        name=row["name"],
        role=row["role"],
        prefix=row["prefix"],
        sha256=row["sha256"],
        created_at=moment(row["created_at"]),
        revoked_at=None if ended is None else moment(ended),
        user_id=row["user_id"],
    )
