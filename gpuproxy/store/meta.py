"""What a deployment is: its id, its signing key, its strategy, the origin of its clock."""

from gpuproxy.ports import Tx

DEPLOYMENT = "deployment_id"
SIGNING_KEY = "signing_key"
GLOBAL_STRATEGY = "strategy"
MARKET = "market"
"""`real` or `sandbox`: one database never mixes both."""
CLOCK = "clock"
LOGIN_KEY = "login_key"
"""What logins are signed with, where the operator gives none."""
ACCOUNTS = "accounts"
"""Those of the last server."""
WRITTEN = "written_at"
"""When readiness was last tried by writing."""


def read(tx: Tx, key: str) -> str | None:
    """The value, or None."""
    row = tx.fetch_one("SELECT value FROM meta WHERE key = ?", (key,))
    return None if row is None else str(row["value"])


def write(tx: Tx, key: str, value: str) -> None:
    """Set a value."""
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def ensure(tx: Tx, key: str, value: str) -> str:
    """The value that is there, or `value` once it has been put there."""
    found = read(tx, key)
    if found is not None:
        return found
    write(tx, key, value)
    return value


def project_strategy(tx: Tx, project: str) -> str | None:
    """The strategy that a project chose."""
    row = tx.fetch_one("SELECT strategy FROM projects WHERE id = ?", (project,))
    return None if row is None else str(row["strategy"])


def set_project_strategy(tx: Tx, project: str, strategy: str) -> None:
    """Choose a project's strategy."""
    tx.execute(
        "INSERT INTO projects (id, strategy) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET strategy = excluded.strategy",
        (project, strategy),
    )
