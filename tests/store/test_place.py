"""Where books can be kept, and that a wrong place is left as it was found."""

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuproxy.store import meta
from gpuproxy.store.place import DatabaseLocked, WrongPlace
from gpuproxy.store.sqlite import SqliteDatabase


def opened(path: Path, *, alone: bool = True) -> SqliteDatabase:
    return SqliteDatabase(str(path), lambda: datetime.now(UTC), alone=alone)


def seen(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode and what it holds."""
    return {
        str(each.relative_to(folder)): (each.stat().st_mode, each.read_bytes() if each.is_file() else b"")
        for each in (folder, *folder.rglob("*"))
    }


def a_directory(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_note(path: Path) -> None:
    path.write_text("buy milk\n" * 200)


def a_short_note(path: Path) -> None:
    path.write_text("buy milk")


def another_programs_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE visits (url TEXT)")


def another_programs_database_in_wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE visits (url TEXT)")


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (a_directory, "it is not a file"),
        (a_pipe, "it is not a file"),
        (a_note, "file is not a database"),
        (a_short_note, "file is not a database"),
        (another_programs_database, "it is the database of another program"),
        (another_programs_database_in_wal, "it is the database of another program"),
    ],
)
def test_what_is_no_database_of_ours_is_left_as_it_was(
    tmp_path: Path, make: Callable[[Path], None], why: str, alone: bool
) -> None:
    make(tmp_path / "place")
    (tmp_path / "place").chmod(0o755)
    before = seen(tmp_path)
    with pytest.raises((WrongPlace, sqlite3.DatabaseError), match=why):
        opened(tmp_path / "place", alone=alone)
    assert seen(tmp_path) == before


def test_a_folder_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(WrongPlace, match=f"there is no folder {tmp_path}/none; make it first"):
        opened(tmp_path / "none" / "books.db")
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_file_becomes_private_books(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    path.touch()
    path.chmod(0o644)
    db = opened(path)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert {stat.S_IMODE(mode) for name, (mode, _) in seen(tmp_path).items() if name != "."} == {0o600}
    await db.close()


async def test_books_whose_first_start_did_not_get_far_are_ours(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    with closing(sqlite3.connect(path)) as begun:
        begun.execute("CREATE TABLE _sqlite_migrations (id INTEGER PRIMARY KEY, migration_set, name, applied_at)")
    db = opened(path)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    await db.close()


async def test_a_bare_name_is_a_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await opened(Path("books.db")).close()
    assert (tmp_path / "books.db").exists()


async def test_a_lock_file_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "books.db.lock").write_text("of somebody else")
    db = opened(tmp_path / "books.db")
    with pytest.raises(DatabaseLocked):
        opened(tmp_path / "books.db")
    await db.close()
    assert (tmp_path / "books.db.lock").read_text() == "of somebody else"
