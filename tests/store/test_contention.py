"""A server, commands and backups on one database at the same time: no acknowledged commit is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.store.contending import acknowledged, check

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]


def started(kind: str, folder: Path, role: str, times: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.store.contending", kind, str(folder / "books.db"), str(folder), role]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, str(times)], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(("kind", "commits", "keys"), [("server", 6000, 100), ("slow_server", 1500, 10)])
def test_every_acknowledged_commit_of_a_server_and_of_commands_survives_checkpoints_and_backups(
    tmp_path: Path, kind: str, commits: int, keys: int
) -> None:
    server = started(kind, tmp_path, "server", commits)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    others = [("commands", "keys1", keys), ("commands", "keys2", keys), ("backups", "copies", 20)]
    running = [server, *(started(kind, tmp_path, role, times) for kind, role, times in others)]
    said = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0, 0], said
    done = acknowledged(tmp_path)
    assert len(done) == commits + 2 * keys + 20
    check(tmp_path / "books.db", done - acknowledged(tmp_path, "copies"))


def test_the_contention_test_detects_a_lost_commit(tmp_path: Path) -> None:
    with started("server", tmp_path, "server", 30) as server:
        server.communicate()
    with pytest.raises(AssertionError, match="lacks 1 acknowledged commits, such as server-30"):
        check(tmp_path / "books.db", acknowledged(tmp_path) | {"server-30"})
