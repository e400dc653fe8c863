"""Moves a whole database from SQLite to PostgreSQL, in one transaction, and marks the file so that nothing uses it.

Before the commit, each table of the copy is compared with the original: the number of its rows and a hash of all of
them. The file is marked before PostgreSQL commits. If the process dies in between, no server starts on either, and the
mark is removed by `unmark`; the other order could leave two databases that both know the same machines.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database as SqliteUtils

from gpuproxy.store.meta import MARKET, MOVED
from gpuproxy.store.postgres import schema
from gpuproxy.store.postgres.commits import BEGIN
from gpuproxy.store.postgres.connecting import Connection

_NEW = {"spent", "webhook_sequence"}
"""Tables with a row in a new database."""
_SUMS = (
    ("ledger", "amount", "amount > 0"),
    ("meters", "rate", "closed_at IS NULL"),
    ("spend_holds", "booked + extra", "1 = 1"),
)
TABLES = tuple(words.split("(")[0].split()[2] for words in schema.TABLES)
"""All tables, those first that others refer to."""


class NotMoved(Exception):
    """The database was not moved, and nothing was changed. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class MovedTable:
    """One table of the copy, equal to the original."""

    name: str
    rows: int
    sha256: str
    """Of the hashes of all rows, in any order."""
    sums: str = ""
    """What was added up on both sides, for people; "" for most tables."""


def move(origin: SqliteUtils, target: Connection, name: str) -> list[MovedTable]:
    """Copy everything. `name` is the new database for messages. Raises NotMoved and the errors of the drivers.

    The caller must know that no server uses either. Claims become free: the processes that had them have ended.
    """
    if (moved := moved_to(origin)) is not None:
        raise NotMoved(f"its content was moved to {moved}")
    target.execute(BEGIN)
    try:
        target.execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        _require_empty(target)
        moved_tables = [_copy(origin, target, table) for table in TABLES]
        target.execute("UPDATE claims SET owner = '', until = 0")
        mark(origin, name)
    except BaseException:
        target.rollback()
        raise
    try:
        target.execute("COMMIT")
    except Exception:
        if not target.closed:  # the server has refused it; otherwise nobody knows
            unmark(origin)
        raise
    return moved_tables


def moved_to(origin: SqliteUtils) -> str | None:
    """Where the content of an SQLite database was moved; None if it was not."""
    row = origin.execute("SELECT value FROM meta WHERE key = ?", (MOVED,)).fetchone()
    return None if row is None else str(json.loads(row[0])["to"])


def mark(origin: SqliteUtils, name: str) -> None:
    """Mark an SQLite database as moved. A server of an older version sees a wrong market, and does not start."""
    market = origin.execute("SELECT value FROM meta WHERE key = ?", (MARKET,)).fetchone()
    state = {"to": name, "market": None if market is None else market[0]}
    origin.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?), (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (MOVED, json.dumps(state), MARKET, "moved"),
    )


def unmark(origin: SqliteUtils) -> bool:
    """Remove the mark; False if there is none."""
    row = origin.execute("SELECT value FROM meta WHERE key = ?", (MOVED,)).fetchone()
    if row is None:
        return False
    market = json.loads(row[0])["market"]
    if market is None:
        origin.execute("DELETE FROM meta WHERE key = ?", (MARKET,))
    else:
        origin.execute("UPDATE meta SET value = ? WHERE key = ?", (market, MARKET))
    origin.execute("DELETE FROM meta WHERE key = ?", (MOVED,))
    return True


def _require_empty(target: Connection) -> None:
    for table in TABLES:
        row = target.execute(f"SELECT count(*) AS n FROM {table}").fetchone()  # noqa: S608 - our own words
        if row is not None and row["n"] > (table in _NEW):
            raise NotMoved(f"the PostgreSQL database is not empty: its table {table} has rows. Use an empty database")


def _copy(origin: SqliteUtils, target: Connection, table: str) -> MovedTable:
    names = [row[1] for row in origin.execute(f"PRAGMA table_info({table})")]
    quoted = ", ".join(f'"{name}"' for name in names)
    query = f"SELECT {quoted} FROM {table}"  # noqa: S608 - our own words
    target.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER; DELETE FROM {table}")  # noqa: S608
    with target.cursor() as cursor, cursor.copy(f"COPY {table} ({quoted}) FROM STDIN") as copying:
        for row in origin.execute(query):
            copying.write_row(row)
    target.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    wanted = _summary(origin.execute(query))
    with target.cursor() as cursor:
        found = _summary(tuple(row.values()) for row in cursor.stream(query))
    sums = _sums(origin, target, table)
    if found != wanted:
        raise NotMoved(f"the copy of the table {table} differs: {wanted[0]} rows became {found[0]}, or values differ")
    return MovedTable(table, *wanted, sums)


def _sums(origin: SqliteUtils, target: Connection, table: str) -> str:
    """The sum of the table's amounts on both sides; "" if it has none. Raises NotMoved if they differ."""
    for name, what, where in _SUMS:
        if name == table:
            query = f"SELECT coalesce(sum({what}), 0) AS total FROM {table} WHERE {where}"  # noqa: S608 - our own words
            wanted, found = origin.execute(query).fetchone()[0], target.execute(query).fetchone()
            if found is None or found["total"] != wanted:
                raise NotMoved(f"the sum of {what} in {table} differs")
            return f"sum of {what} where {where}: {wanted}"
    return ""


def _summary(rows: Iterable[Iterable[Any]]) -> tuple[int, str]:
    """The number of rows, and one hash of all that does not depend on their order."""
    total, number = 0, 0
    for text in _texts(rows):
        total += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
        number += 1
    return number, f"{total % 2**256:064x}"


def _texts(rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Each row as one text. The character 0 is compared as it is stored, see `connecting`."""
    for row in rows:
        yield json.dumps([value.replace("\x00", "\ufffd") if isinstance(value, str) else value for value in row])
