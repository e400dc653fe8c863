"""A database whose files are removed, moved or replaced while open: nothing is rented, everything else continues."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.sqlite.database import SqliteDatabase


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = SqliteDatabase(str(tmp_path / "books.db"), lambda: datetime.now(UTC))
    await opened.write(lambda tx: meta.write(tx, "a", "1"))
    yield opened
    await opened.close()


def spend(tx: Tx) -> None:
    tx.before_spending()
    meta.write(tx, "spent", "1")


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def remove(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


async def test_an_unchanged_database_allows_spending_and_logs_nothing(db: SqliteDatabase) -> None:
    with structlog.testing.capture_logs() as lines:
        await db.write(spend)
        assert await db.read(lambda tx: tx.lasting())
    assert lines == []


@pytest.mark.parametrize("pattern", ["books.db*", "books.db", "books.db-wal", "books.db-shm", "books.db.lock"])
async def test_nothing_is_rented_while_another_start_would_not_find_the_files(
    db: SqliteDatabase, tmp_path: Path, pattern: str
) -> None:
    remove(tmp_path, pattern)
    left = names(tmp_path)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(Unavailable, match="removed or replaced") as refused:
                await db.write(spend)
            assert refused.value.reason == "DATABASE"
            assert not await db.write(lambda tx: tx.lasting())
    assert [(line["event"], line["log_level"]) for line in lines] == [("database_files_removed", "error")]
    assert await db.read(lambda tx: meta.read(tx, "spent")) is None
    assert names(tmp_path) == left


async def test_another_database_at_the_same_path_is_not_accepted(db: SqliteDatabase, tmp_path: Path) -> None:
    copy = (tmp_path / "books.db").read_bytes()
    (tmp_path / "books.db").unlink()
    (tmp_path / "books.db").write_bytes(copy)
    with pytest.raises(Unavailable, match="removed or replaced"):
        await db.write(spend)


async def test_releases_still_read_and_write_without_the_files(db: SqliteDatabase, tmp_path: Path) -> None:
    remove(tmp_path, "books.db*")
    await db.write(lambda tx: meta.write(tx, "a", "2"))
    assert set(await asyncio.gather(*(db.read(lambda tx: meta.read(tx, "a")) for _ in range(20)))) == {"2"}
    assert names(tmp_path) == set()


async def test_a_restored_database_allows_spending_again_and_has_all_writes(db: SqliteDatabase, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for name in names(tmp_path) - {"away"}:
        (tmp_path / name).rename(away / name)
    with pytest.raises(Unavailable):
        await db.write(spend)
    await db.write(lambda tx: meta.write(tx, "a", "2"))
    for name in names(away):
        (away / name).rename(tmp_path / name)
    with structlog.testing.capture_logs() as lines:
        await db.write(spend)
        await db.write(spend)
    assert [line["event"] for line in lines] == ["database_files_restored"]
    await db.close()
    again = SqliteDatabase(str(tmp_path / "books.db"), lambda: datetime.now(UTC))
    assert await again.read(lambda tx: (meta.read(tx, "a"), meta.read(tx, "spent"))) == ("2", "1")
    await again.close()
