"""The statements around the units of a commit, and the record by which a commit is found again.

Each server has a row in `writers` with the number of its last batch. The row is written in the transaction of the
batch, so it says whether the batch was committed, also when the connection broke before the answer came.
`changes` has the topics that were changed, so that other servers hear of them even if a notification is lost.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from gpuproxy.ports import Tx
from gpuproxy.store.postgres.connecting import Connection
from gpuproxy.store.postgres.statements import statement
from gpuproxy.store.rows import micros, moment

CHANNEL = "gpuproxy"
LOCK = int.from_bytes(b"gpuproxy", "big")
"""The number of the writers' lock. It is a lock of the database, not of the whole server."""
LIMITS = (
    "SET LOCAL idle_in_transaction_session_timeout = '5s'; SET LOCAL lock_timeout = '15s'; "
    "SET LOCAL statement_timeout = '30s'"
)
"""A server that stands still within a transaction is cut off, so that it keeps the lock for five seconds at most."""
_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
BEGIN = f"BEGIN ISOLATION LEVEL READ COMMITTED; {LIMITS}; SELECT pg_advisory_xact_lock({LOCK})"
"""The lock is the first statement that takes a snapshot. Each later one has all commits before it."""
BEGIN_READING = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {LIMITS}"
NOW = f"SELECT greatest({_CLOCK}, coalesce(max(at), 0)) AS now FROM writers"  # noqa: S608 - our own words
"""The database's time in microseconds, never before a unit that was committed."""
_RECORD = (
    "INSERT INTO writers (id, batch, at) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = excluded.at"
)
_CHANGES = "INSERT INTO changes (at, writer, topic) SELECT ?, ?, each.value FROM json_each(?)"
_NOTIFY = f"NOTIFY {CHANNEL}, ?"
_SWEEP_CHANGES = "DELETE FROM changes WHERE at < ?"
_SWEEP_WRITERS = "DELETE FROM writers WHERE at < ? AND alive_at < ? AND id <> ?"
_KEEP_CHANGES, _KEEP_WRITERS = 5 * 60 * 1_000_000, 7 * 86_400 * 1_000_000
"""For how long rows are kept, in microseconds. A server that slept for longer wakes all its watchers."""


class Unproven(Exception):
    """A commit was answered with a warning: it may be missing on the standby."""


_ALIVE = (
    "INSERT INTO writers (id, batch, at, alive_at) VALUES (%s, 0, 0, {at}) "
    "ON CONFLICT (id) DO UPDATE SET alive_at = excluded.alive_at"
)
_OTHERS = f"SELECT 1 AS one FROM writers WHERE id <> ? AND alive_at > {_CLOCK} - ?"  # noqa: S608 - our own words
ALIVE_EVERY = 5.0
"""Seconds after which a server says again that it runs."""
_ALIVE_FOR = 20_000_000
"""Microseconds."""


def say_alive(connection: Connection, writer: str, *, alive: bool = True) -> None:
    """Write that this server runs, or that it has ended. Raises psycopg.Error."""
    connection.execute(_ALIVE.format(at=_CLOCK if alive else "0"), (writer,))


def others_alive(tx: Tx, writer: str) -> bool:
    """True if another server runs, or has crashed less than 20 seconds ago."""
    return tx.fetch_one(_OTHERS, (writer, _ALIVE_FOR)) is not None


@dataclass(frozen=True, slots=True)
class Record:
    """What is written with a batch."""

    writer: str
    batch: int
    at: datetime
    topics: Sequence[str]
    sweep: bool
    """Also delete the rows that are kept for a limited time."""


def exchanged(connection: Connection, statements: Sequence[bytes]) -> list[tuple[int, list[Any]]]:
    """Run statements in one round trip; of each the number of rows that it changed or found, and what it found.

    Raises psycopg.Error: then none of those that follow was run.
    """
    cursor, results = connection.execute(b"; ".join(statements)), []
    while True:
        has_rows = cursor.pgresult is not None and cursor.pgresult.nfields > 0
        results.append((cursor.rowcount, cursor.fetchall() if has_rows else []))
        if not cursor.nextset():
            return results


def commit(connection: Connection, record: Record, *, after: Sequence[bytes] = ()) -> None:
    """Write the record after the statements `after` and commit, in one round trip.

    Raises psycopg.Error; then nothing is committed unless the connection is closed. Raises Unproven if the commit may
    not last.
    """
    at = micros(record.at)
    statements = [*after, statement(_RECORD, (record.writer, record.batch, at))]
    if record.topics:
        topics = json.dumps(sorted(set(record.topics)))
        statements += [statement(_CHANGES, (at, record.writer, topics)), statement(_NOTIFY, (record.writer,))]
    if record.sweep:
        old = at - _KEEP_WRITERS
        statements += [
            statement(_SWEEP_CHANGES, (at - _KEEP_CHANGES,)),
            statement(_SWEEP_WRITERS, (old, old, record.writer)),
        ]
    warnings: list[str] = []

    def listen(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(listen)
    try:
        cursor = connection.execute(b"; ".join([*statements, b"COMMIT"]))
        while cursor.nextset():
            pass
    finally:
        connection.remove_notice_handler(listen)
    if cursor.statusmessage != "COMMIT":
        raise psycopg.errors.InFailedSqlTransaction(f"the answer to COMMIT was {cursor.statusmessage}")
    if warnings:
        raise Unproven(warnings[0])


def was_committed(connection: Connection, writer: str, batch: int) -> bool | None:
    """Whether a batch was committed, asked on a new connection; None if that can't be known any more.

    The lock is free only when the batch's transaction has ended. A write of its own proves that what is read lasts.
    Raises psycopg.Error and Unproven.
    """
    connection.execute(BEGIN)
    row = connection.execute("SELECT batch, at FROM writers WHERE id = %s", (writer,)).fetchone()
    if row is None:
        connection.rollback()
        return None if batch > 1 else False
    commit(connection, Record(writer, int(row["batch"]), moment(row["at"]), (), sweep=False))
    return int(row["batch"]) >= batch
