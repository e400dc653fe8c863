"""A PostgreSQL that holds its sockets open and says nothing: no wait is without a limit, and nothing is assumed."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Iterator
from typing import TypeVar

import psycopg
import pytest
import structlog

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.postgres import commits, connecting, database, writer
from gpuproxy.store.postgres.connecting import LimitedConnection
from gpuproxy.store.postgres.database import PostgresDatabase
from tests import postgres
from tests.store.postgres.cutting import Cut, Wire

pytestmark = pytest.mark.long
_LIMIT = 3.0
"""Real seconds. Longer than a living server is silent here, whatever the machine does."""
_MOST = 120.0
"""Real seconds until a test fails that would wait for ever."""
T = TypeVar("T")


async def ended(call: Awaitable[T]) -> T:
    """The result of a call that must not wait for ever."""
    return await asyncio.wait_for(call, _MOST)


@pytest.fixture
def url() -> str:
    return postgres.fresh()


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    made = Wire(url)
    made.url += "&connect_timeout=2"
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LimitedConnection, "limit", _LIMIT)


def increment(tx: Tx) -> int:
    number = int(meta.read(tx, "n") or "0") + 1
    meta.write(tx, "n", str(number))
    return number


async def number(db: PostgresDatabase) -> int:
    return int(await db.read(lambda tx: meta.read(tx, "n")) or "0")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("cut", ["silent before", "silent after"])
async def test_a_commit_that_is_never_answered_is_looked_up_and_counts_once(wire: Wire, cut: Cut):
    db = postgres.opened(wire.url, threads=True)
    assert await db.write(increment) == 1
    wire.arm(cut)
    with structlog.testing.capture_logs() as lines:
        assert await ended(db.write(increment)) == 2
    looked_up = [line["committed"] for line in lines if line["event"] == "commit_looked_up"]
    assert (looked_up, wire.made) == ([cut == "silent after"], 1)
    assert await number(db) == 2
    await db.close()


@pytest.mark.usefixtures("impatient")
async def test_if_the_database_stays_silent_after_a_commit_its_outcome_is_unknown(
    wire: Wire, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(writer, "LOOK_UP_FOR", 0.1)
    db = postgres.opened(wire.url, threads=True)
    assert await db.write(increment) == 1

    def announced(tx: Tx) -> int:
        tx.changed("number")
        return increment(tx)

    wire.arm("all silent after")
    async with db.watch("number") as wakeups:
        with pytest.raises(Unavailable, match="not known whether the change was stored"):
            await ended(db.write(announced))
        await ended(wakeups.wait())  # nobody else tells this server of its own commit
    assert wire.made == 1
    wire.go_on()
    assert await db.write(increment) == 3  # it was stored
    await db.close()


@pytest.mark.usefixtures("impatient")
async def test_units_fail_while_the_database_is_silent_and_succeed_when_it_speaks(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_WAIT_FOR_READER", 2.0)
    db = postgres.opened(wire.url, threads=True)
    assert (await db.write(increment), await number(db)) == (1, 1)
    wire.silence()
    with pytest.raises(Unavailable, match="Nothing was changed"):
        await ended(db.write(increment))
    with pytest.raises(Unavailable):
        await ended(number(db))
    wire.go_on()
    assert await db.write(increment) == 2
    while True:  # the pool renews its connections by itself
        try:
            assert await number(db) == 2
            break
        except Unavailable:
            continue
    await db.close()


@pytest.mark.usefixtures("impatient")
async def test_a_server_process_that_is_stopped_holds_nobody_for_ever(url: str):
    """It has the writers' lock. It goes on when a new connection waits for that."""
    db, stopped = postgres.opened(url, threads=True), []

    def unit(tx: Tx) -> int:
        made = increment(tx)
        if not stopped:
            [row] = tx.fetch("SELECT pg_backend_pid() AS pid")
            stopped.append(row["pid"])
            os.kill(row["pid"], signal.SIGSTOP)
            tx.fetch("SELECT 1 AS one")
        return made

    writing = asyncio.ensure_future(db.write(unit))
    try:
        await ended(asyncio.to_thread(others_wait, url))
        assert not writing.done()
    finally:
        os.kill(stopped[0], signal.SIGCONT)
    assert await ended(writing) == 1
    assert await number(db) == 1
    await db.close()


def others_wait(url: str) -> None:
    """Return when a connection waits for the writers' lock."""
    until = time.monotonic() + _MOST
    with psycopg.connect(url, autocommit=True) as watching:
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while watching.execute(waits).fetchone() is None and time.monotonic() < until:
            time.sleep(0.05)


@pytest.mark.usefixtures("impatient")
async def test_a_connection_that_is_opened_to_a_silent_server_is_given_up(wire: Wire):
    wire.silence()
    with pytest.raises(Unavailable):
        postgres.opened(wire.url)


async def test_a_slow_statement_within_the_limit_is_no_failure(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    """Also one that says nothing for longer than psycopg waits at once."""
    monkeypatch.setattr(LimitedConnection, "limit", 60.0)
    db, runs = postgres.opened(wire.url, threads=True), []

    def unit(tx: Tx) -> int:
        runs.append("run")
        tx.fetch("SELECT 1 AS one FROM pg_sleep(1.5)")
        return increment(tx)

    assert await db.write(unit) == 1
    assert await db.read(lambda tx: tx.fetch("SELECT 1 AS one FROM pg_sleep(1.5)"))
    assert runs == ["run"]
    await db.close()


def test_the_limit_is_longer_than_what_the_server_itself_allows():
    allowed = [int(words.split("'")[1].removesuffix("s")) for words in commits.LIMITS.split(";")]
    assert max(allowed) < connecting.SILENT_AFTER < max(allowed) + 10
