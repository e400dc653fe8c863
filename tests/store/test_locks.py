"""One server for one database file, under every name and after every change of names."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gpuproxy.app import user_admin
from gpuproxy.config.environment import ConfigError
from gpuproxy.config.settings import Settings
from gpuproxy.store import meta
from gpuproxy.store.sqlite import locks, mounts
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.location import DatabaseLocked, UnusableLocation

pytestmark = pytest.mark.long


def opened(path: Path, *, alone: bool = True) -> SqliteDatabase:
    return SqliteDatabase(str(path), lambda: datetime.now(UTC), alone=alone)


_SERVING = """
import asyncio, sys
from datetime import UTC, datetime
from gpuproxy.store.sqlite.database import SqliteDatabase

db = SqliteDatabase(sys.argv[1], lambda: datetime.now(UTC))
print("open", flush=True)
sys.stdin.readline()
asyncio.run(db.close())
"""


@contextmanager
def serving(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that has opened the database like a server; it closes it at a line or at the end of stdin."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _SERVING, str(path)], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def by_link(path: Path) -> Path:
    link = path.with_name("link" + path.suffix)
    link.symlink_to(path)
    return link


def by_two_links(path: Path) -> Path:
    link = path.with_name("links") / "second.db"
    link.parent.mkdir()
    link.symlink_to(Path("..") / by_link(path).name)
    return link


def by_folder(path: Path) -> Path:
    folder = path.parent.with_name("folder")
    folder.symlink_to(path.parent)
    return folder / path.name


def by_relative_path(path: Path) -> Path:
    return Path(os.path.relpath(path))


def renamed(path: Path) -> Path:
    return path.rename(path.with_name("renamed.db"))


WAYS = pytest.mark.parametrize("way", [by_link, by_two_links, by_folder, by_relative_path])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "books"
    folder.mkdir()
    return folder / "books.db"


@WAYS
async def test_a_second_server_on_the_same_file_is_refused_under_every_name(
    path: Path, way: Callable[[Path], Path]
) -> None:
    db = opened(path)
    other = way(path)
    with pytest.raises(DatabaseLocked, match="in use by another GPU Proxy"):
        opened(other)
    await db.close()
    await opened(other).close()


@WAYS
async def test_a_server_that_was_started_with_another_name_locks_the_file_itself(
    path: Path, way: Callable[[Path], Path]
) -> None:
    await opened(path).close()
    with serving(way(path)) as other, pytest.raises(DatabaseLocked):
        assert other.poll() is None
        opened(path)


@pytest.mark.parametrize("alone", [True, False])
async def test_a_database_that_was_renamed_while_in_use_is_locked_under_its_new_name(path: Path, alone: bool) -> None:
    with (
        serving(path),
        pytest.raises(DatabaseLocked, match=r"GPU Proxy server\. That server opened it by another name"),
    ):
        opened(renamed(path), alone=alone)


@WAYS
async def test_files_beside_a_database_are_beside_the_real_file(path: Path, way: Callable[[Path], Path]) -> None:
    other = way(path)
    db = opened(other)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    assert {each.name for each in path.parent.iterdir()} - {"link.db", "links"} == {
        "books.db", "books.db-wal", "books.db-shm", "books.db.lock"
    }  # fmt: skip
    assert db._writer.conn.execute("PRAGMA database_list").fetchone()[2] == str(path)
    await db.close()


async def test_a_link_that_is_changed_while_the_server_runs_counts_as_a_replaced_file(path: Path) -> None:
    link = by_link(path)
    db = opened(link)
    assert await db.read(lambda tx: tx.lasting())
    link.unlink()
    link.symlink_to(path.with_name("another.db"))
    assert not await db.read(lambda tx: tx.lasting())
    link.unlink()
    link.symlink_to(path)
    assert await db.read(lambda tx: tx.lasting())
    await db.close()


@pytest.mark.parametrize("alone", [True, False])
async def test_a_database_with_two_names_is_refused_because_each_name_has_its_own_log(path: Path, alone: bool) -> None:
    await opened(path).close()
    second = path.with_name("second.db")
    second.hardlink_to(path)
    for name in (path, second):
        with pytest.raises(UnusableLocation, match=r"2 names \(hard links\).*remove all names except the one"):
            opened(name, alone=alone)
    assert {each.name for each in path.parent.iterdir()} == {"books.db", "books.db.lock", "second.db"}
    second.unlink()
    await opened(path).close()


def test_a_second_name_of_a_database_does_not_allow_a_second_server(path: Path) -> None:
    second = path.with_name("second.db")
    with serving(path):
        second.hardlink_to(path)
        with pytest.raises(UnusableLocation):
            opened(second)
        path.unlink()
        with pytest.raises(DatabaseLocked):
            opened(second)


async def test_a_copy_of_a_database_is_not_locked(path: Path) -> None:
    db = opened(path)
    shutil.copy(path, path.with_name("copy.db"))
    copy = opened(path.with_name("copy.db"))
    await copy.write(lambda tx: meta.write(tx, "a", "1"))
    await copy.close()
    await db.close()


@WAYS
def test_a_command_works_beside_a_running_server(path: Path, way: Callable[[Path], Path]) -> None:
    with serving(path) as server:
        settings = Settings(database_url=f"sqlite:///{way(path)}")
        assert user_admin.create_key(settings, "ci", "user", "default").text.startswith("gpx_")
        assert [key.name for key in user_admin.list_keys(settings)] == ["ci"]
        assert server.poll() is None


async def test_the_lock_is_released_when_its_owner_closes_the_database(path: Path) -> None:
    with serving(path) as server:
        with pytest.raises(DatabaseLocked):
            opened(path)
        server.communicate("close\n")
        assert server.returncode == 0
        await opened(path).close()


async def test_the_lock_is_released_when_its_owner_is_killed(path: Path) -> None:
    with serving(path) as server:
        with pytest.raises(DatabaseLocked):
            opened(path)
        server.kill()
        server.wait()
        await opened(path).close()


@contextmanager
def locked_by_an_earlier_version(file: Path) -> Iterator[None]:
    """An earlier version: it locks only the `.lock` file beside the name that it was started with."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


async def test_a_server_of_an_earlier_version_locks_out_a_new_one(path: Path) -> None:
    await opened(path).close()
    link = by_link(path)
    for file, name in ((Path(f"{path}.lock"), path), (Path(f"{path}.lock"), link), (Path(f"{link}.lock"), link)):
        with locked_by_an_earlier_version(file):
            with pytest.raises(DatabaseLocked):
                opened(name)
            command = opened(name, alone=False)
            await command.write(lambda tx: meta.write(tx, "a", "1"))
            await command.close()
        await opened(name).close()


@pytest.mark.parametrize("way", [lambda path: path, by_link])
async def test_a_new_server_locks_out_one_of_an_earlier_version(path: Path, way: Callable[[Path], Path]) -> None:
    name = way(path)
    with locked_by_an_earlier_version(Path(f"{name}.lock")):
        pass  # it ran here once
    db = opened(name)
    for file in {Path(f"{path}.lock"), Path(f"{name}.lock")}:
        with pytest.raises(BlockingIOError), locked_by_an_earlier_version(file):
            pass
    await db.close()
    for file in {Path(f"{path}.lock"), Path(f"{name}.lock")}:
        with locked_by_an_earlier_version(file):
            pass


async def test_a_lock_file_that_links_to_the_other_one_is_locked_once(path: Path) -> None:
    await opened(path).close()
    link = by_link(path)
    by_link(Path(f"{path}.lock")).rename(f"{link}.lock")
    await opened(link).close()


_SHARED_BY_SQLITE = (510, 0x40000002)
"""Length and beginning of the bytes that SQLite locks while a database in WAL mode is open."""


_LOCKING = """
import fcntl, sys

with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *map(int, sys.argv[2:]))
"""


def sqlite_holds(path: Path) -> bool:
    """True if another process finds SQLite's own lock on the file."""
    command = [sys.executable, "-c", _LOCKING, str(path), *map(str, _SHARED_BY_SQLITE)]
    return b"BlockingIOError" in subprocess.run(command, capture_output=True, check=False).stderr


async def test_neither_a_refused_start_nor_a_command_drops_sqlites_own_locks(path: Path) -> None:
    db = opened(path)
    with pytest.raises(DatabaseLocked):
        opened(path)
    assert sqlite_holds(path)
    await opened(path, alone=False).close()
    assert sqlite_holds(path)
    await db.close()
    assert not sqlite_holds(path)


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_no_descriptor_stays_open_after_the_database_is_closed(path: Path) -> None:
    await opened(path).close()
    before, in_use = descriptors(), dict(locks._in_use)
    db = opened(path)
    with pytest.raises(DatabaseLocked):
        opened(path)
    await opened(path, alone=False).close()
    await db.close()
    assert descriptors() == before
    assert locks._in_use == in_use


async def test_on_a_network_file_system_only_the_file_beside_the_database_is_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system, the lock on the file would conflict with SQLite's own locks."""
    table = path.with_name("mountinfo")
    table.write_text(f"1 0 0:1 / {path.parent} rw - nfs4 store:/ rw\n")
    monkeypatch.setattr(mounts, "MOUNTINFO", table)
    db = opened(path)
    with locked_by_an_earlier_version(path):
        pass
    with pytest.raises(DatabaseLocked):
        opened(path)
    await db.close()


def test_a_start_on_a_database_in_use_says_what_to_do(path: Path) -> None:
    from gpuproxy.app.local_database import with_database

    async def nothing(_: SqliteDatabase) -> None: ...

    link = by_link(path)
    with serving(path), pytest.raises(ConfigError) as refused:
        with_database(Settings(database_url=f"sqlite:///{link}"), nothing, alone=True)
    said = f"{link} is in use by another GPU Proxy server. Stop it first, or set GPUPROXY_DATABASE_URL to another file."
    assert str(refused.value) == said
