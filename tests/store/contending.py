"""Programs that use one database concurrently: `python -m tests.store.contending ...`.

Each program writes the names of its acknowledged commits, one per line, to `<role>.acks` in its folder.
"""

import asyncio
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from gpuproxy.app import upkeep, user_admin
from gpuproxy.config.settings import Settings
from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.sqlite.database import SqliteDatabase
from gpuproxy.store.sqlite.driver import sqlite3

_CALLERS = 3
"""So few that most commits are of a unit or two."""
_TEXT = "x" * 2000
"""So long that the log is checkpointed and begun anew every few hundred commits."""


def server(path: Path, folder: Path, role: str, times: int, disk_seconds: float = 0) -> None:
    """Write like a server, and report when it is ready."""

    def write(tx: Tx, name: str) -> None:
        meta.write(tx, name, _TEXT)
        time.sleep(disk_seconds)

    async def run() -> None:
        db = SqliteDatabase(str(path), lambda: datetime.now(UTC))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        with (folder / f"{role}.acks").open("w", buffering=1) as acks:

            async def call(first: int) -> None:
                for number in range(first, times, _CALLERS):
                    name = f"{role}-{number}"
                    await db.write(lambda tx, name=name: write(tx, name))
                    acks.write(f"{name}\n")

            await asyncio.gather(*(call(first) for first in range(_CALLERS)))
        await db.close()

    asyncio.run(run())


def slow_server(path: Path, folder: Path, role: str, times: int) -> None:
    """Write like a server with a slow disk: the database is locked nearly all of the time."""
    server(path, folder, role, times, disk_seconds=0.01)


def commands(path: Path, folder: Path, role: str, times: int) -> None:
    """Create keys like `gpuproxy keys create`, each over its own connections."""
    settings = Settings(database_url=f"sqlite:///{path}")
    with (folder / f"{role}.acks").open("w", buffering=1) as acks:
        for number in range(times):
            user_admin.create_key(settings, f"{role}-{number}", "user", "default")
            acks.write(f"{role}-{number}\n")


def backups(path: Path, folder: Path, role: str, times: int) -> None:
    """Copy the database; each copy is intact and has all commits that were acknowledged before it began."""
    settings = Settings(database_url=f"sqlite:///{path}")
    with (folder / f"{role}.acks").open("w", buffering=1) as acks:
        for number in range(times):
            before, copy = acknowledged(folder) - acknowledged(folder, role), folder / f"{role}-{number}.db"
            upkeep.backup(settings, copy)
            check(copy, before)
            copy.unlink()
            acks.write(f"{role}-{number}\n")


def acknowledged(folder: Path, role: str = "*") -> frozenset[str]:
    """All complete lines of the programs' files."""
    texts = (file.read_text().rpartition("\n")[0] for file in folder.glob(f"{role}.acks"))
    return frozenset(line for text in texts for line in text.splitlines())


def check(path: Path, names: frozenset[str]) -> None:
    """Fail unless the database is intact and has the rows with these names."""
    with closing(sqlite3.connect(path)) as db:
        whole = db.execute("PRAGMA integrity_check").fetchall()
        found = {name for (name,) in db.execute("SELECT key FROM meta UNION SELECT name FROM api_keys")}
    if whole != [("ok",)]:
        raise AssertionError(f"{path} is broken: {whole}")
    if lost := names - found:
        raise AssertionError(f"{path} lacks {len(lost)} acknowledged commits, such as {min(lost)}")


if __name__ == "__main__":
    kind, where, beside, name, number = sys.argv[1:]
    programs = {"server": server, "slow_server": slow_server, "commands": commands, "backups": backups}
    programs[kind](Path(where), Path(beside), name, int(number))
