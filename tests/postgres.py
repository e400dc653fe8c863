"""A PostgreSQL server for the tests of one process, from Debian's package: started once, on a socket of its own.

`fresh` gives a database with the current schema. Databases are used again: their rows are deleted between two tests.
Without the package, tests that need a server are skipped; with CI set they fail.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from gpuproxy.store.postgres import schema
from gpuproxy.store.postgres.database import PostgresDatabase
from gpuproxy.store.postgres.dialect import pieces
from tests.ports import free_port

_SETTINGS = {
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "jit": "off",
    "log_min_messages": "fatal",
}
_TEMPLATE = "template_of_tests"
_USES = 300
"""After so many tests a database is dropped: deleted rows stay in its indexes."""


def binaries() -> Path | None:
    """The folder of the newest version's programs; None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if found:
        return found[-1]
    postgres = shutil.which("postgres")
    return Path(postgres).resolve().parent if postgres else None


def needed() -> Path:
    """The folder of the programs; skips the test without them."""
    found = binaries()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found


ENDS_WITH_US = ("--pdeathsig", "INT")
"""The options for a command that ends with this process."""


def unprivileged(command: Sequence[str], *options: str) -> list[str]:
    """The command as a user that PostgreSQL accepts: never root. `options` are those of setpriv."""
    user = [] if os.geteuid() else ["--reuid", _user(), "--regid", str(pwd.getpwnam(_user()).pw_gid), "--clear-groups"]
    return ["setpriv", *user, *options, *command]


def _user() -> str:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise AssertionError("there is no unprivileged user")


def own(path: Path) -> None:
    """Give a path to the user of `unprivileged`."""
    if os.geteuid() == 0:
        shutil.chown(path, _user())


at_end = ExitStack()
"""What ends with the tests of this process. `atexit` would not do: the workers of xdist end without it."""


class Server:
    """One PostgreSQL server. `settings` are added to those of tests, which are fast and not durable."""

    def __init__(self, *, fsync: bool = False, settings: dict[str, str] | None = None) -> None:
        self.bin = needed()
        self.folder = Path(tempfile.mkdtemp(prefix="gpx-pg-"))
        self.port = free_port()
        own(self.folder)
        self.folder.chmod(0o755)
        self._data = self.folder / "data"
        self._run("initdb", "-D", str(self._data), "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8",
                  "--locale=C.UTF-8")  # fmt: skip
        lines = {**_SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [f"{self.bin}/postgres", "-D", str(self._data), "-p", str(self.port), "-k", str(self.folder),
                   "-c", "listen_addresses=127.0.0.1"]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(unprivileged(command, *ENDS_WITH_US), stdout=log, stderr=log, cwd="/")
        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it; by default quickly and properly."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    def remove(self) -> None:
        """Stop it, and delete everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str) -> str:
        """The URL of a database, over the socket."""
        return f"postgresql://tester@/{database}?host={self.folder}&port={self.port}"

    def create(self, template: str = "template1") -> str:
        """A new database; returns its URL."""
        name = f"t{uuid4().hex[:12]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = unprivileged([f"{self.bin}/{program}", *arguments], *ENDS_WITH_US)
        subprocess.run(command, check=True, capture_output=True, cwd="/")


@cache
def server() -> Server:
    """The server of this process, and its template."""
    made = Server()
    at_end.callback(made.remove)
    with psycopg.connect(made.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    PostgresDatabase(made.url(_TEMPLATE), "template", unsafe=True, threads=False)._writer.close()
    return made


_TABLES = [words.split("(")[0].split()[2] for words in (*schema.TABLES, *schema.OWN)]
_DELETES = [f"DELETE FROM {table}" for table in _TABLES]  # noqa: S608 - our own words
_CLEAN = "; ".join(["SET session_replication_role = replica", *_DELETES, *schema.ROWS])
_idle: list[tuple[str, int]] = []
_used: list[tuple[str, int]] = []
_opened: list[Callable[[], None]] = []


def fresh() -> str:
    """The URL of an empty database with the current schema, until `release`."""
    if _idle:
        url, uses = _idle.pop()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_CLEAN)
    else:
        url, uses = server().create(_TEMPLATE), 0
    _used.append((url, uses + 1))
    return url


def copied(url: str) -> str:
    """The URL of a database with what is committed in another one."""
    copy = fresh()
    with psycopg.connect(url) as source, psycopg.connect(copy) as target:
        source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        target.execute("SET session_replication_role = replica")
        target.execute("; ".join(_DELETES))
        for table in _TABLES:
            copying = f"COPY {table} TO STDOUT"
            with source.cursor().copy(copying) as read, target.cursor().copy(f"COPY {table} FROM STDIN") as write:
                for data in read:
                    write.write(data)
    return copy


def opened(url: str, *, threads: bool = False) -> PostgresDatabase:
    """The database, opened by a process of its own. `release` closes what has no threads."""
    db = PostgresDatabase(url, uuid4().hex, unsafe=True, threads=threads, poll=0.05)
    if not threads:
        _opened.append(db._writer.close)
    return db


def rows(db: PostgresDatabase, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run a statement of the repositories' SQL outside of any unit, and return its rows."""
    return [tuple(row.values()) for row in named(db, sql, params)]


def named(db: PostgresDatabase, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The same, each row by the names of its columns."""
    cursor = db._writer._connected().execute(translate(sql), params)
    return cursor.fetchall() if cursor.description else []


def translate(sql: str) -> str:
    """A statement of the repositories in PostgreSQL's words, with psycopg's `%s` for each parameter."""
    return "%s".join(piece.replace("%", "%%") for piece in pieces(sql))


def insert(db: PostgresDatabase, table: str, values: Sequence[dict[str, Any]]) -> None:
    """Insert rows with the same columns."""
    names = list(values[0])
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
    with db._writer._connected().cursor() as cursor:
        cursor.executemany(translate(sql), [tuple(row.values()) for row in values])


def release() -> None:
    """The databases of a test are free for the next one."""
    while _opened:
        _opened.pop()()
    _idle.extend(each for each in _used if each[1] < _USES)
    _used.clear()
