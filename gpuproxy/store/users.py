"""Users, with their project and role. Only the argon2id hash of a password is stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gpuproxy.model.users import Role
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    """One user of one project."""

    id: str
    email: str
    """The address in lower case."""
    project: str
    role: Role
    password: str = field(repr=False)
    """The argon2id hash in its text format, with parameters and salt."""
    created_at: datetime
    disabled_at: datetime | None = None


def insert(tx: Tx, user: UserRow) -> None:
    """Insert a new user. Raises Taken if the email address is in use."""
    tx.execute(
        "INSERT INTO users (id, email, project, role, password, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (user.id, user.email, user.project, user.role, user.password, micros(user.created_at)),
    )


def by_id(tx: Tx, user_id: str) -> UserRow | None:
    """The user with this id, also a disabled one; None if there is none."""
    row = tx.fetch_one(f"{_SELECT} WHERE id = ?", (user_id,))
    return None if row is None else _user(row)


def by_email(tx: Tx, email: str) -> UserRow | None:
    """The user with this address (in lower case), also a disabled one; None if there is none."""
    row = tx.fetch_one(f"{_SELECT} WHERE email = ?", (email,))
    return None if row is None else _user(row)


def listed(tx: Tx) -> tuple[UserRow, ...]:
    """All users, including disabled ones; newest first."""
    return tuple(_user(row) for row in tx.fetch(f"{_SELECT} ORDER BY created_at DESC, id"))


def disable(tx: Tx, email: str) -> bool:
    """Disable a user; False if there is no such user."""
    changed = tx.execute(
        "UPDATE users SET disabled_at = coalesce(disabled_at, ?) WHERE email = ?", (micros(tx.now()), email)
    )
    return changed > 0


def enable(tx: Tx, email: str) -> bool:
    """Enable a user; False if there is no such user."""
    return tx.execute("UPDATE users SET disabled_at = NULL WHERE email = ?", (email,)) > 0


def set_password(tx: Tx, email: str, password: str) -> bool:
    """Replace a user's password hash; False if there is no such user."""
    return tx.execute("UPDATE users SET password = ? WHERE email = ?", (password, email)) > 0


_SELECT = "SELECT id, email, project, role, password, created_at, disabled_at FROM users"


def _user(row: Mapping[str, Any]) -> UserRow:
    ended = row["disabled_at"]
    return UserRow(
        id=row["id"],
        email=row["email"],
        project=row["project"],
        role=row["role"],
        password=row["password"],
        created_at=moment(row["created_at"]),
        disabled_at=None if ended is None else moment(ended),
    )
