"""Where a database can be, and that an unusable location is never changed."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuproxy.store import meta
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3
from gpuproxy.store.sqlite.location import DatabaseLocked, UnusableLocation

pytestmark = pytest.mark.long


def opened(path: Path, *, alone: bool = True) -> SqliteDatabase:
    return SqliteDatabase(str(path), lambda: datetime.now(UTC), alone=alone)


def seen(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its mode and content."""
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
        (a_directory, "it is not a regular file"),
        (a_pipe, "it is not a regular file"),
        (a_note, "file is not a database"),
        (a_short_note, "file is not a database"),
        (another_programs_database, "it is the database of another program"),
        (another_programs_database_in_wal, "it is the database of another program"),
    ],
)
def test_a_file_that_is_not_our_database_is_not_changed(
    tmp_path: Path, make: Callable[[Path], None], why: str, alone: bool
) -> None:
    make(tmp_path / "place")
    (tmp_path / "place").chmod(0o755)
    before = seen(tmp_path)
    with pytest.raises(UnusableLocation, match=why):
        opened(tmp_path / "place", alone=alone)
    assert seen(tmp_path) == before


def test_a_missing_folder_is_never_created(tmp_path: Path) -> None:
    with pytest.raises(UnusableLocation, match=f"the folder {tmp_path}/none does not exist; create it first"):
        opened(tmp_path / "none" / "books.db")
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_file_becomes_a_private_database(tmp_path: Path) -> None:
    path = tmp_path / "books.db"
    path.touch()
    path.chmod(0o644)
    db = opened(path)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert {stat.S_IMODE(mode) for name, (mode, _) in seen(tmp_path).items() if name != "."} == {0o600}
    await db.close()


async def test_a_database_whose_first_start_was_interrupted_is_ours(tmp_path: Path) -> None:
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


async def test_the_content_of_a_lock_file_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "books.db.lock").write_text("of somebody else")
    db = opened(tmp_path / "books.db")
    with pytest.raises(DatabaseLocked):
        opened(tmp_path / "books.db")
    await db.close()
    assert (tmp_path / "books.db.lock").read_text() == "of somebody else"


NOBODY = 65534
_OPENING = """
import asyncio, os, sys
from datetime import UTC, datetime
from gpuproxy.store import meta
from gpuproxy.store.sqlite.location import UnusableLocation
from gpuproxy.store.sqlite.database import SqliteDatabase

async def main():
    try:
        db = SqliteDatabase(sys.argv[1], lambda: datetime.now(UTC))
    except UnusableLocation as error:
        return print(error)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    print("written")
    if sys.argv[3] == "killed":
        os._exit(0)
    await db.close()

if os.geteuid() == 0:
    os.seteuid(int(sys.argv[2]))
asyncio.run(main())
"""


@pytest.fixture
def of_no_root() -> Iterator[Path]:
    """A folder of the user nobody: file modes don't restrict root, so root can't test them."""
    folder = Path(tempfile.mkdtemp(prefix="gpuproxy-place-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, -1)
        yield folder
    finally:
        shutil.rmtree(folder)


def tried(path: Path, end: str = "closed") -> str:
    """The output of a process that opens the database as the user nobody."""
    command = [sys.executable, "-c", _OPENING, str(path), str(NOBODY), end]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_read_only_database_is_refused_unchanged_and_works_once_it_is_writable(of_no_root: Path, end: str) -> None:
    path = of_no_root / "books.db"
    assert tried(path, end) == "written"
    path.chmod(0o400)
    before = seen(of_no_root)
    assert tried(path) == "this user can't read and write it (its mode is 0400)"
    assert seen(of_no_root) == before
    path.chmod(0o600)
    assert tried(path) == "written"


def test_files_left_by_a_read_of_a_read_only_database_do_not_block_the_server(of_no_root: Path) -> None:
    path = of_no_root / "books.db"
    tried(path, "killed")
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").chmod(0o400)
    assert tried(path, "killed") == "written"
    assert {stat.S_IMODE(each.stat().st_mode) for each in of_no_root.iterdir()} == {0o600}


def test_a_link_into_a_missing_folder_is_refused_with_that_folder(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "none" / "books.db")
    with pytest.raises(UnusableLocation, match=f"the folder {tmp_path}/none does not exist; create it first"):
        opened(link)


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(link)
    with pytest.raises(OSError, match="link"):
        opened(link)
