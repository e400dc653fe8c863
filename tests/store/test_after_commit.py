"""A callback of `after_commit` is called once, on the event loop, after the commit, and never without a commit."""

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3


@pytest.fixture(params=[True, False], ids=["threads", "no threads"])
async def db(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(str(tmp_path / "books.db"), lambda: datetime.now(UTC), threads=request.param)
    yield opened
    await opened.close()


async def test_the_callback_runs_on_the_loop_after_the_commit_is_visible(db: SqliteDatabase, tmp_path: Path):
    seen: list[tuple[bool, str]] = []

    def look() -> None:
        with sqlite3.connect(tmp_path / "books.db") as other:
            (value,) = other.execute("SELECT value FROM meta WHERE key = 'a'").fetchone()
        seen.append((threading.current_thread() is threading.main_thread(), value))

    def write(tx: Tx) -> None:
        tx.after_commit(look)
        meta.write(tx, "a", "1")

    await db.write(write)
    assert seen == [(True, "1")]


async def test_the_callback_does_not_run_if_the_commit_fails(db: SqliteDatabase):
    seen: list[str] = []
    db._writer.conn.execute("PRAGMA query_only=ON")

    def write(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append("called"))
        meta.write(tx, "a", "1")

    with pytest.raises(Unavailable):
        await db.write(write)
    db._writer.conn.execute("PRAGMA query_only=OFF")
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert seen == []


async def test_the_callback_of_a_cancelled_caller_runs_because_its_work_is_committed(db: SqliteDatabase):
    seen: list[str] = []
    task = asyncio.ensure_future(db.write(lambda tx: tx.after_commit(lambda: seen.append("called"))))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert seen == ["called"]
