"""The database port over real SQLite files."""

import asyncio
import os
import shutil
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from gpuproxy.model.errors import Busy, DiskFull, ReadOnly, StatementRefused
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.sqlite import database
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.store.sqlite.location import DatabaseLocked


def opened(path: Path, *, alone: bool = True) -> SqliteDatabase:
    return SqliteDatabase(str(path / "books.db"), lambda: datetime.now(UTC), alone=alone)


async def test_written_data_survives_a_restart(tmp_path: Path):
    db = opened(tmp_path)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    await db.close()
    db = opened(tmp_path)
    assert await db.read(lambda tx: meta.read(tx, "a")) == "1"
    await db.close()


def modes(path: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()}


PRIVATE = dict.fromkeys(("books.db", "books.db-wal", "books.db-shm", "books.db.lock"), 0o600)


@pytest.mark.parametrize("alone", [True, False])
async def test_only_the_owner_can_access_a_new_database_whatever_the_umask(tmp_path: Path, alone: bool):
    before = os.umask(0)
    try:
        db = opened(tmp_path, alone=alone)
        await db.write(lambda tx: meta.write(tx, "a", "1"))
        assert modes(tmp_path) == PRIVATE
        await db.close()
    finally:
        os.umask(before)


async def test_a_database_that_others_could_read_is_made_private_at_startup_with_a_warning(tmp_path: Path):
    db = opened(tmp_path)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    for name in PRIVATE:
        shutil.copy(tmp_path / name, tmp_path / f"{name}.left")
    await db.close()
    for name in PRIVATE:
        (tmp_path / f"{name}.left").replace(tmp_path / name)
        (tmp_path / name).chmod(0o644)
    with structlog.testing.capture_logs() as lines:
        db = opened(tmp_path)
    assert modes(tmp_path) == PRIVATE
    assert {(line["event"], line["mode"]) for line in lines} == {("file_permissions_restricted", "0644")}
    assert {Path(line["file"]).name for line in lines} == set(PRIVATE)
    assert await db.read(lambda tx: meta.read(tx, "a")) == "1"
    await db.close()


async def test_a_private_database_causes_no_warning(tmp_path: Path):
    await opened(tmp_path).close()
    with structlog.testing.capture_logs() as lines:
        await opened(tmp_path).close()
    assert lines == []


async def test_a_failed_unit_of_work_does_not_affect_others(tmp_path: Path):
    db = opened(tmp_path)

    def bad(tx: Tx) -> None:
        meta.write(tx, "bad", "1")
        raise LookupError("no")

    results = await asyncio.gather(
        *(db.write(lambda tx, n=n: meta.write(tx, f"k{n}", "1")) for n in range(50)),
        db.write(bad),
        return_exceptions=True,
    )
    assert isinstance(results[-1], LookupError)
    assert await db.read(lambda tx: meta.read(tx, "bad")) is None
    assert await db.read(lambda tx: meta.read(tx, "k49")) == "1"
    await db.close()


async def test_a_second_server_on_the_same_database_is_refused(tmp_path: Path):
    db = opened(tmp_path)
    with pytest.raises(DatabaseLocked):
        opened(tmp_path)
    command = opened(tmp_path, alone=False)
    await command.write(lambda tx: meta.write(tx, "from", "a command"))
    await command.close()
    assert await db.read(lambda tx: meta.read(tx, "from")) == "a command"
    await db.close()


async def test_a_watcher_is_woken_by_a_commit_and_not_by_a_failure(tmp_path: Path):
    db = opened(tmp_path)

    def failing(tx: Tx) -> None:
        tx.changed("topic")
        raise LookupError

    async with db.watch("topic") as wakeups:
        with pytest.raises(LookupError):
            await db.write(failing)
        waiting = asyncio.ensure_future(wakeups.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        await db.write(lambda tx: tx.changed("topic"))
        await waiting
    await db.close()


async def test_a_full_disk_refuses_the_write_and_the_database_recovers_by_itself(tmp_path: Path):
    db = opened(tmp_path)
    pages = db._writer.conn.execute("PRAGMA page_count").fetchone()[0]
    db._writer.conn.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DiskFull):
        for n in range(100):
            await db.write(lambda tx, n=n: meta.write(tx, f"k{n}", "x" * 4000))
    db._writer.conn.execute("PRAGMA max_page_count=1000000")
    await db.write(lambda tx: meta.write(tx, "after", "1"))
    assert await db.read(lambda tx: meta.read(tx, "after")) == "1"
    await db.close()


async def test_a_database_locked_by_another_process_refuses_the_write_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_SERVER_WAITS", timedelta())
    db = opened(tmp_path)
    other = sqlite3.connect(tmp_path / "books.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy):
        await db.write(lambda tx: meta.write(tx, "a", "1"))
    other.execute("ROLLBACK")
    other.close()
    await db.write(lambda tx: meta.write(tx, "a", "2"))
    assert await db.read(lambda tx: meta.read(tx, "a")) == "2"
    await db.close()


async def test_a_command_waits_for_the_lock_for_longer_than_a_server_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "_SERVER_WAITS", timedelta(milliseconds=100))
    server = opened(tmp_path)
    command = SqliteDatabase(str(tmp_path / "books.db"), lambda: datetime.now(UTC), alone=False)
    other = sqlite3.connect(tmp_path / "books.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(command.write(lambda tx: meta.write(tx, "of the command", "1")))
    with pytest.raises(Busy):
        await server.write(lambda tx: meta.write(tx, "of the server", "1"))
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    await waiting
    assert await server.read(lambda tx: meta.read(tx, "of the command")) == "1"
    await command.close()
    await server.close()


async def test_a_database_that_can_only_be_read_refuses_the_write_and_recovers(tmp_path: Path):
    db = opened(tmp_path)
    db._writer.conn.execute("PRAGMA query_only=ON")
    with pytest.raises(ReadOnly) as refused:
        await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert isinstance(refused.value.__cause__, sqlite3.Error)
    db._writer.conn.execute("PRAGMA query_only=OFF")
    await db.write(lambda tx: meta.write(tx, "a", "2"))
    assert await db.read(lambda tx: meta.read(tx, "a")) == "2"
    await db.close()


async def test_a_connection_that_fails_during_a_read_is_no_exception_of_the_driver(tmp_path: Path):
    db = opened(tmp_path)
    broken = db._idle_readers.get()
    broken.conn.close()
    db._idle_readers.put(broken)
    outcomes = [await _outcome(db) for _ in range(4)]
    assert outcomes.count(None) == outcomes.count("Unavailable") == 2
    await db.close()


async def _outcome(db: SqliteDatabase) -> str | None:
    try:
        return await db.read(lambda tx: meta.read(tx, "a"))
    except Exception as error:  # noqa: BLE001 - the class of any error is the result
        return type(error).__name__


async def test_a_unit_that_passes_over_a_full_disk_is_not_committed(tmp_path: Path):
    """SQLite has ended the transaction, so that each further statement would be committed by itself."""
    db = opened(tmp_path)
    pages = db._writer.conn.execute("PRAGMA page_count").fetchone()[0]
    db._writer.conn.execute(f"PRAGMA max_page_count={pages}")

    def careless(tx: Tx) -> None:
        for n in range(100):
            with suppress(DiskFull):
                meta.write(tx, f"k{n}", "x" * 4000)
        with suppress(StatementRefused):
            meta.write(tx, "k0", "small")

    with pytest.raises(DiskFull):
        await db.write(careless)
    db._writer.conn.execute("PRAGMA max_page_count=1000000")
    await db.write(lambda tx: meta.write(tx, "after", "1"))
    rows = await db.read(lambda tx: tx.fetch("SELECT key FROM meta"))
    assert [row["key"] for row in rows] == ["after"]
    await db.close()
