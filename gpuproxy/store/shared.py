"""What the processes of a deployment tell each other: rows with a name, a version and a text.

Nothing here is needed for a promise: a process that finds no row begins as if it were the first. Times are by the
database's clock. With one process nothing is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True)
class Told:
    """One row without its body."""

    name: str
    version: int
    """Grows with each write."""
    at: datetime
    """When it was written."""
    head: str
    """JSON."""


def tell(tx: Tx, name: str, head: str, body: str | None = None) -> None:
    """Write a row. None: its body stays as it is."""
    tx.write(
        "INSERT INTO shared (name, version, at, head, body) VALUES (?, 1, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET version = shared.version + 1, at = excluded.at, head = excluded.head",
        (name, micros(tx.now()), head, body or ""),
    )
    if body is not None:
        tx.write("UPDATE shared SET body = ? WHERE name = ?", (body, name))
    tx.changed(topic(name))


def put(tx: Tx, bodies: Mapping[str, str]) -> None:
    """Write rows that have a body only, by name, in one statement. Nothing is announced: a row that names them is."""
    if bodies:
        rows = ", ".join(["(?, 1, ?, '{}', ?)"] * len(bodies))
        values = [each for name, text in bodies.items() for each in (name, micros(tx.now()), text)]
        tx.execute(
            f"INSERT INTO shared (name, version, at, head, body) VALUES {rows} ON CONFLICT (name) DO UPDATE "  # noqa: S608
            "SET version = shared.version + 1, at = excluded.at, body = excluded.body",
            values,
        )


def topic(name: str) -> str:
    """What is announced when a row was written."""
    return f"shared:{name}"


def told(tx: Tx, name: str) -> Told | None:
    """A row without its body; None if there is none."""
    row = tx.fetch_one("SELECT name, version, at, head FROM shared WHERE name = ?", (name,))
    return None if row is None else _told(row)


def body(tx: Tx, name: str) -> str:
    """The body of a row; "" if there is none."""
    return bodies(tx, (name,)).get(name, "")


def bodies(tx: Tx, names: Sequence[str]) -> dict[str, str]:
    """The bodies of the rows with these names, by name. One that does not exist is missing."""
    if not names:
        return {}
    marks = ", ".join("?" * len(names))
    rows = tx.fetch(f"SELECT name, body FROM shared WHERE name IN ({marks})", names)  # noqa: S608
    return {row["name"]: row["body"] for row in rows}


def with_prefix(tx: Tx, prefix: str) -> tuple[Told, ...]:
    """The rows whose names begin with `prefix`, by name."""
    rows = tx.fetch(
        "SELECT name, version, at, head FROM shared WHERE name >= ? AND name < ? ORDER BY name", (prefix, f"{prefix}~")
    )
    return tuple(map(_told, rows))


def forget(tx: Tx, name: str) -> None:
    """Delete a row."""
    tx.write("DELETE FROM shared WHERE name = ?", (name,))


def forget_older(tx: Tx, prefix: str, before: datetime) -> None:
    """Delete the rows whose names begin with `prefix` and that were written before a time."""
    tx.write("DELETE FROM shared WHERE name >= ? AND name < ? AND at < ?", (prefix, f"{prefix}~", micros(before)))


def _told(row: Mapping[str, Any]) -> Told:
    return Told(row["name"], row["version"], moment(row["at"]), row["head"])
