"""The ballast on real files, and on a small disk if this user can mount one."""

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from gpuproxy.model.errors import Unavailable
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.sqlite import ballast
from gpuproxy.store.sqlite.ballast import BYTES, Ballast
from gpuproxy.store.sqlite.database import SqliteDatabase

MEGABYTE = 1 << 20


def test_the_disk_space_is_really_reserved_and_freed(tmp_path: Path):
    file = tmp_path / "books.db.ballast"
    held = Ballast(file)
    assert not held.held
    held.hold()
    assert held.held
    assert file.stat().st_blocks * 512 >= BYTES
    assert held.give_up()
    assert not file.exists()
    assert not held.give_up()


def test_the_ballast_of_an_earlier_process_is_reused(tmp_path: Path):
    file = tmp_path / "books.db.ballast"
    Ballast(file).hold()
    before = file.stat()
    again = Ballast(file)
    again.hold()
    assert again.held
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_an_incomplete_ballast_file_is_not_used(tmp_path: Path):
    file = tmp_path / "books.db.ballast"
    file.write_bytes(b"\0" * 1000)
    held = Ballast(file)
    held.hold()
    assert held.held
    assert file.stat().st_blocks * 512 >= BYTES


def test_on_an_almost_full_disk_no_ballast_is_created_and_that_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "books.db.ballast"
    monkeypatch.setattr(ballast, "BYTES", 1 << 60)
    held = Ballast(file)
    with structlog.testing.capture_logs() as lines:
        held.hold()
        held.hold()
    assert not held.held
    assert not file.exists()
    assert [line["event"] for line in lines] == ["disk_space_exhausted"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={3 * BYTES}", "none", str(folder))
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("this user may not mount a disk")
    yield folder
    unmount = ("umount", "--lazy", str(folder))
    subprocess.run(unmount, check=True)


async def test_a_full_disk_has_space_for_necessary_writes_and_for_nothing_else(small_disk: Path):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    path = small_disk / "books.db"
    held = Ballast(Path(f"{path}.ballast"))
    db = SqliteDatabase(str(path), lambda: now, ballast=held)
    await db.write(lambda tx: meta.write(tx, "a", "1"))
    fill(small_disk / "filler")

    def much(tx: Tx) -> None:
        for number in range(8):
            meta.write(tx, f"k{number}", "x" * (MEGABYTE // 2))

    def new(tx: Tx) -> None:
        tx.before_spending()
        meta.write(tx, "new", "1")

    await db.write(much)
    assert not held.held
    assert len(await db.read(lambda tx: meta.read(tx, "k7")) or "") == MEGABYTE // 2
    with pytest.raises(Unavailable, match="disk is full"):
        await db.write(new)
    await db.write(lambda tx: meta.write(tx, "a", "2"))
    (small_disk / "filler").unlink()
    with pytest.raises(Unavailable, match="disk is full"):
        await db.write(new)  # it looks every few seconds only
    now += timedelta(seconds=11)
    await db.write(new)
    assert held.held
    await db.close()


def fill(file: Path) -> None:
    """Fill the disk to the last byte."""
    with file.open("wb", buffering=0) as filler:
        for size in (MEGABYTE, 4096, 1):
            try:
                while filler.write(b"\0" * size) == size:
                    pass
            except OSError:
                continue
