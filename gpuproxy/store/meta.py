"""Facts about the deployment, as keys and values: its id, signing key, strategy, clock origin."""

from gpuproxy.ports import Tx

DEPLOYMENT = "deployment_id"
SIGNING_KEY = "signing_key"
GLOBAL_STRATEGY = "strategy"
MARKET = "market"
"""`real` or `sandbox`; a database is never used for both."""
CLOCK = "clock"
LOGIN_KEY = "login_key"
"""The signing key of login tokens, if the operator sets none."""
FIRST_ADMIN = "first_admin"
"""Set once the key of the first admin is created, where several servers use the database."""
ACCOUNTS = "accounts"
"""The accounts of the last server that used the database."""
VERIFIED = "counters_verified"
"""The sequence number of the last event that the counters of hosts were recomputed from."""
MOVED = "moved_to"
"""Of an SQLite database: where its content was moved, and what its market was."""
WRITTEN = "written_at"
"""The time of the last write by the readiness check."""


_ONE = "SELECT value FROM meta WHERE key = ?"


def ahead(tx: Tx, key: str) -> None:
    """Say that a key will be read."""
    tx.ahead(_ONE, (key,))


def read(tx: Tx, key: str) -> str | None:
    """The value of a key; None if it isn't set."""
    row = tx.fetch_one(_ONE, (key,))
    return None if row is None else str(row["value"])


def write(tx: Tx, key: str, value: str) -> None:
    """Set the value of a key."""
    tx.write(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def claim(tx: Tx, key: str) -> bool:
    """Set a key that is not set yet. False if it was set before: somebody else has done what it stands for."""
    if read(tx, key) is not None:
        return False
    write(tx, key, "done")
    return True


def ensure(tx: Tx, key: str, value: str) -> str:
    """The stored value; if there is none, store `value` and return it."""
    found = read(tx, key)
    if found is not None:
        return found
    write(tx, key, value)
    return value


def project_strategy(tx: Tx, project: str) -> str | None:
    """The strategy of a project; None if it has chosen none."""
    row = tx.fetch_one("SELECT strategy FROM projects WHERE id = ?", (project,))
    return None if row is None else str(row["strategy"])


def set_project_strategy(tx: Tx, project: str, strategy: str) -> None:
    """Set the strategy of a project."""
    tx.write(
        "INSERT INTO projects (id, strategy) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET strategy = excluded.strategy",
        (project, strategy),
    )
