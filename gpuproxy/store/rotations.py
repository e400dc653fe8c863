"""The rotation state of strategies that take turns: one row per strategy, written in the intents' transaction."""

import json

from gpuproxy.model.errors import TurnTaken
from gpuproxy.model.load import Rotation
from gpuproxy.model.offers import HostKey
from gpuproxy.ports import Tx


def read(tx: Tx, strategy: str) -> Rotation:
    """The rotation of a strategy."""
    row = tx.fetch_one("SELECT last, level, standing, version FROM rotations WHERE strategy = ?", (strategy,))
    if row is None:
        return Rotation()
    last = None if row["last"] is None else HostKey(row["last"])
    return Rotation(last=last, level=row["level"], standing=json.loads(row["standing"]), version=row["version"])


def save(tx: Tx, strategy: str, rotation: Rotation) -> None:
    """Store the rotation of a strategy. Raises TurnTaken if it has changed since it was read; then choose again."""
    before = tx.fetch_one("SELECT version FROM rotations WHERE strategy = ?", (strategy,))
    if rotation.version != (0 if before is None else before["version"]):
        raise TurnTaken(f"another call has advanced the rotation of {strategy}")
    tx.write(
        "INSERT INTO rotations (strategy, last, level, standing, version) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (strategy) DO UPDATE SET last = excluded.last, level = excluded.level, "
        "standing = excluded.standing, version = excluded.version",
        (strategy, rotation.last, rotation.level, json.dumps(dict(rotation.standing)), rotation.version + 1),
    )


def undo_pick(tx: Tx, strategy: str, host: HostKey, gpus: int) -> None:
    """Subtract the GPUs of a failed pick from the host's count."""
    before = read(tx, strategy)
    if host in before.standing:
        tx.write(
            "UPDATE rotations SET standing = ?, version = version + 1 WHERE strategy = ?",
            (json.dumps({**before.standing, host: before.standing[host] - gpus}), strategy),
        )
