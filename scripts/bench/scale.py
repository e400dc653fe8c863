"""How much the one writer lock of a PostgreSQL database carries, and how large history is there.

PostgreSQL is Debian's, on loopback, with fsync. A unit is that of an intent: a reservation, a lease and two events,
with the sums that triggers keep of them.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

from gpuproxy.ports import Database, Tx
from gpuproxy.store.postgres.database import PostgresDatabase
from gpuproxy.store.sqlite.database import SqliteDatabase
from scripts.bench.report import Row
from tests import postgres
from tests.past import batches

HISTORY = 20_000
"""Finished reservations."""
_SECONDS = 2.0
_ROUNDS = 5
_CALLERS = 64
_COUNTED = (1, 8, _CALLERS)
_EVENTS = 2
_POSTED = """
    INSERT INTO ledger SELECT n, (n + 1) / 2, 1760000000000000 + n, 1760000000000000 + n, 1760000360000000 + n,
    CASE n %% 2 WHEN 0 THEN 'cost:p' || n %% 4 ELSE 'provider:vast.ai/vast-1' END, CASE n %% 4 WHEN 0 THEN 'gpu' ELSE
    'storage' END, 'lease-' || lpad((n / 8)::text, 8, '0') || '-01', 'p' || n %% 4, 'key-abcd2345', 'vast.ai', 'vast-1',
    CASE n %% 2 WHEN 0 THEN 400000 ELSE -400000 END, 3600000000 FROM generate_series(1, %(rows)s) AS n
"""
"""Of a reservation of 90 minutes: the costs of its GPU and of its disk within two hours, each in double entry."""
_LEASES = """
    INSERT INTO ledger_leases SELECT 'lease-' || lpad(n::text, 8, '0') || '-01', 'res-' || lpad(n::text, 8, '0'),
    (30000000 + n)::text, 'RTX 4090', 1, '{"team": "vision"}' FROM generate_series(1, %(rows)s) AS n
"""
_AUDIT = """
    INSERT INTO audit SELECT n, 1760000000000000 + n, 'p' || n %% 4, '', 'key-abcd2345', 'reserved',
    'res-' || lpad(n::text, 8, '0'), '1 GPU' FROM generate_series(1, %(rows)s) AS n
"""
_TABLES = ("reservations", "leases", "events", "meters", "settlements", "ledger", "ledger_leases", "audit")
Intents = Iterator[dict[str, list[dict[str, Any]]]]


def measure(folder: Path) -> list[Row]:
    """Nothing without PostgreSQL."""
    if postgres.binaries() is None:
        print("PostgreSQL is not installed: nothing is measured", file=sys.stderr)
        return []
    server = postgres.Server(fsync=True, settings={"full_page_writes": "on", "max_wal_size": "4GB"})
    try:
        return [*asyncio.run(_writing(folder, server)), _size(server)]
    finally:
        server.remove()


async def _writing(folder: Path, server: postgres.Server) -> list[Row]:
    url = server.create()
    first, second = (PostgresDatabase(url, name) for name in ("first", "second"))
    file = SqliteDatabase(str(folder / "books.db"), lambda: datetime.now(UTC))
    intents = _intents()
    raw: list[float] = []
    found: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        raw.append(_bare_commits(url))
        for callers in _COUNTED:
            found.setdefault(f"one {callers}", []).append(await _units([first], callers, intents))
        found.setdefault("two", []).append(await _units([first, second], _CALLERS, intents))
        found.setdefault("file", []).append(await _units([file], _CALLERS, intents))
    for db in (first, second, file):
        await db.close()
    floor = _middle(raw)

    def row(name: str, key: str, note: str) -> Row:
        rate = _middle(found[key])
        return Row(name=name, value=rate / floor, unit="x", note=f"{rate:.0f}/s of {floor:.0f}/s; {note}")

    against = "intents written a second, against bare commits of one row by one connection"
    return [
        *(row(f"{against}: {each} callers, one server", f"one {each}", "PostgreSQL") for each in _COUNTED),
        row(f"{against}: {_CALLERS} callers, two servers", "two", "PostgreSQL; both in one process"),
        row(f"{against}: {_CALLERS} callers", "file", "SQLite"),
    ]


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _bare_commits(url: str) -> float:
    """How many transactions a second one connection commits, of one update each."""
    done, began = 0, time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bench_turns (n bigint)")
        connection.execute("INSERT INTO bench_turns VALUES (0)")
        while time.perf_counter() - began < _SECONDS:
            connection.execute("UPDATE bench_turns SET n = n + 1")
            done += 1
        connection.execute("DROP TABLE bench_turns")
    return done / (time.perf_counter() - began)


async def _units(databases: Sequence[Database], callers: int, intents: Intents) -> float:
    """How many units a second are committed by so many callers, spread over the databases."""
    done, began = 0, time.perf_counter()

    async def call(db: Database) -> None:
        nonlocal done
        while time.perf_counter() - began < _SECONDS:
            await db.write(_writes(next(intents)))
            done += 1

    await asyncio.gather(*(call(databases[number % len(databases)]) for number in range(callers)))
    return done / (time.perf_counter() - began)


def _writes(rows: dict[str, list[dict[str, Any]]]) -> Callable[[Tx], None]:
    def write(tx: Tx) -> None:
        for table, values in rows.items():
            for each in values:
                names = ", ".join(each)
                tx.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(each))})", [*each.values()])  # noqa: S608

    return write


def _intents() -> Intents:
    """Rows of reservations that begin now; their numbers never repeat."""
    now, events = datetime.now(UTC), count(1)
    for rows in batches(1_000_000, now - timedelta(days=1), now):
        for reservation, lease in zip(rows["reservations"], rows["leases"], strict=True):
            of = rows["events"][:_EVENTS]
            told = [{**each, "seq": next(events), "reservation_id": reservation["id"]} for each in of]
            yield {"reservations": [reservation], "leases": [lease], "events": told}


def _size(server: postgres.Server) -> Row:
    url = server.create()
    asyncio.run(PostgresDatabase(url, "filled").close())
    now = datetime.now(UTC)
    with psycopg.connect(url, autocommit=True) as connection:
        before = sum(_sizes(connection).values())
        for rows in batches(HISTORY, now - timedelta(days=365), now - timedelta(days=20)):
            for table, values in rows.items():
                _copy(connection, table, values)
        connection.execute("SET session_replication_role = replica")  # the sums of the ledger are not needed
        for words, each in ((_POSTED, 8), (_LEASES, 1), (_AUDIT, 2)):
            connection.execute(words, {"rows": HISTORY * each})
        connection.execute("VACUUM ANALYZE")
        sizes = _sizes(connection)
        grown = sum(sizes.values()) - before
    shown = ", ".join(f"{table} {size / HISTORY:.0f}" for table, size in sizes.items())
    return Row(
        name="a million finished reservations of one GPU in PostgreSQL", value=grown / HISTORY / 1000, unit="GB",
        note=f"by {HISTORY:,}; bytes of each, with indexes: {shown}",
    )  # fmt: skip


def _sizes(connection: "psycopg.Connection[Any]") -> dict[str, int]:
    """Bytes of the tables that grow with history, with their indexes. Tables of sums are rewritten, and small."""
    return {table: _size_of(connection, table) for table in _TABLES}


def _size_of(connection: "psycopg.Connection[Any]", table: str) -> int:
    row = connection.execute("SELECT pg_total_relation_size(%s::text::regclass)", (table,)).fetchone()
    return int(row[0]) if row else 0


def _copy(connection: "psycopg.Connection[Any]", table: str, values: Sequence[dict[str, Any]]) -> None:
    words = f"COPY {table} ({', '.join(values[0])}) FROM STDIN"
    with connection.cursor().copy(words.encode()) as target:
        for each in values:
            target.write_row([*each.values()])
