"""The spending limits and quotas that are set, by calls and by settings. `store.limits` applies them."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpuproxy.model.limits import SpendingLimit, Usage, Window
from gpuproxy.model.money import Micro
from gpuproxy.model.quotas import Quota
from gpuproxy.model.webhooks import EventType
from gpuproxy.ports import Tx
from gpuproxy.store import outbox
from gpuproxy.store.rows import micros

_QUOTA = "SELECT * FROM quotas WHERE project IN (?, '') ORDER BY project DESC"


def applying(tx: Tx, project: str, key_id: str) -> list[SpendingLimit]:
    """The limits that apply to what a project rents with a key: those of all projects first, then by window."""
    rows = tx.fetch(
        "SELECT * FROM spend_limits WHERE scope = 'global' OR (scope = 'project' AND subject = ?) "
        "OR (scope = 'key' AND subject = ?) ORDER BY scope, length, id",
        (project, key_id),
    )
    return [_limit(row) for row in rows]


def listed(tx: Tx) -> list[SpendingLimit]:
    """All limits."""
    return [_limit(row) for row in tx.fetch("SELECT * FROM spend_limits ORDER BY scope, subject, length, id")]


def put(tx: Tx, limit: SpendingLimit) -> None:
    """Set a limit, or remove it if its amount is 0."""
    if limit.amount <= 0:
        tx.write("DELETE FROM spend_limits WHERE id = ?", (limit.id,))
        return
    tx.write(
        "INSERT INTO spend_limits (id, scope, subject, window, length, amount, policy, source, name, set_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, "
        "policy = excluded.policy, name = excluded.name, set_at = excluded.set_at, "
        "near = CASE WHEN spend_limits.amount = excluded.amount THEN spend_limits.near ELSE 0 END",
        (limit.id, limit.scope, limit.subject, limit.window.name, limit.window.length, limit.amount, limit.policy,
         limit.source, limit.name, micros(tx.now())),
    )  # fmt: skip


def replace(tx: Tx, limit: SpendingLimit) -> bool:
    """Set or remove a limit of a call, under whatever name its window is stored. False if there was none."""
    known = tx.fetch(
        "SELECT id FROM spend_limits WHERE source = 'call' AND scope = ? AND subject = ? AND length = ?",
        (limit.scope, limit.subject, limit.window.length),
    )
    for row in known:
        if row["id"] != limit.id:
            tx.write("DELETE FROM spend_limits WHERE id = ?", (row["id"],))
    put(tx, limit)
    return bool(known)


def use_settings(tx: Tx, limits: Sequence[SpendingLimit], quotas: Sequence[Quota]) -> None:
    """Make the limits and quotas of the settings those of the database. Limits of calls stay."""
    kept = {limit.id for limit in limits}
    for row in tx.fetch("SELECT id FROM spend_limits WHERE source = 'setting'"):
        if row["id"] not in kept:
            tx.write("DELETE FROM spend_limits WHERE id = ?", (row["id"],))
    for limit in limits:
        put(tx, limit)
    tx.write("DELETE FROM quotas")
    for quota in quotas:
        tx.write("INSERT INTO quotas (project, gpus, rate) VALUES (?, ?, ?)", (quota.project, quota.gpus, quota.rate))


def quota_ahead(tx: Tx, project: str) -> None:
    """`quota_of` will be called."""
    tx.ahead(_QUOTA, (project,))


def quota_of(tx: Tx, project: str) -> Quota | None:
    """The quota of a project; None if there is none."""
    rows = tx.fetch(_QUOTA, (project,))
    return Quota(project=project, gpus=rows[0]["gpus"], rate=rows[0]["rate"]) if rows else None


def level_of(tx: Tx, limit: SpendingLimit) -> int:
    """How far a limit was used when it was last noted: 0, 1 (nearly reached) or 2 (reached)."""
    row = tx.fetch_one("SELECT near FROM spend_limits WHERE id = ?", (limit.id,))
    return 0 if row is None else int(row["near"])


def note_level(tx: Tx, usage: Usage, level: int) -> bool:
    """Store how far a limit is used. True if it has risen, so that it is told and logged once."""
    rises = level > level_of(tx, usage.limit)
    tx.write("UPDATE spend_limits SET near = ? WHERE id = ?", (level, usage.limit.id))
    if rises:
        outbox.of_limit(tx, EventType.LIMIT_REACHED if level > 1 else EventType.LIMIT_NEAR, usage)
    return rises


def _limit(row: Mapping[str, Any]) -> SpendingLimit:
    return SpendingLimit(
        scope=row["scope"], subject=row["subject"], window=Window(row["window"], row["length"]),
        amount=Micro(row["amount"]), policy=row["policy"], source=row["source"], name=row["name"],
    )  # fmt: skip
