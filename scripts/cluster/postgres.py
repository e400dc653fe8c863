"""A PostgreSQL primary with a synchronous standby on loopback, from Debian's package, and the fail-over between them.

A commit is answered when the standby has it on its disk. The standby's connection to its primary leads through a
forwarder, so that replication can be stalled. A fail-over first makes sure that no process of the old primary is alive,
as every fail-over must.
"""

import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import psycopg

from scripts.cluster.forwarding import Network
from tests.ports import free_port
from tests.postgres import ENDS_WITH_US, own, unprivileged

USER = "gpuproxy"
DATABASE = "gpuproxy"
_PATIENCE = 600.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "replica",
    "synchronous_commit": "on",
    "synchronous_standby_names": "FIRST 1 (standby)",
    "track_commit_timestamp": "on",
    "max_connections": "100",
    "max_wal_senders": "8",
    "wal_keep_size": "256MB",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %a ",
}
_starter = ThreadPoolExecutor(1, "postgres")
"""A server ends with the thread that has started it, so it must be one that lives as long as this process."""


def binaries() -> Path | None:
    """The folder of the newest version's programs; None if PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return found[-1] if found else None


class Node:
    """One PostgreSQL server with its folder."""

    def __init__(self, bin_: Path, folder: Path, number: int) -> None:
        self.data = folder / f"node{number}"
        self.port = free_port()
        self._bin = bin_
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """An empty server."""
        self.run("initdb", "-D", str(self.data), "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8")
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())

    def copy_of(self, primary: "Node", through: int) -> None:
        """A standby of another server, which it follows through a port."""
        source = f"host=127.0.0.1 port={primary.port} user={USER}"
        self.run("pg_basebackup", "-D", str(self.data), "-d", source, "--checkpoint=fast", "-X", "stream", "--no-sync")
        (self.data / "standby.signal").touch()
        own(self.data / "standby.signal")
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.write(
                f"primary_conninfo = 'host=127.0.0.1 port={through} user={USER} application_name=standby'\n"
                "recovery_target_timeline = 'latest'\nwal_retrieve_retry_interval = '200ms'\n"
            )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [f"{self._bin}/postgres", "-D", str(self.data), "-p", str(self.port), "-k", str(self._folder)]
        with (self._folder / "postgres.log").open("ab") as log:
            self._process = _starter.submit(
                subprocess.Popen, unprivileged(command, *ENDS_WITH_US), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/", start_new_session=True,
            ).result()  # fmt: skip
        wait_for(self._answers, "PostgreSQL answers")

    def stop(self, number: signal.Signals) -> None:
        """Stop it. After SIGKILL no process of it is alive."""
        if self._process is None:
            return
        if number is signal.SIGKILL:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)
        self._process.wait(_PATIENCE)
        wait_for(lambda: not _group_is_alive(self._process), "all of its processes have ended")
        self._process = None

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "promote", "-D", str(self.data), "-w", "-t", str(int(_PATIENCE)))

    def connect(self, database: str = DATABASE) -> "psycopg.Connection[tuple[Any, ...]]":
        """A connection of our own, not through a forwarder."""
        target = f"host=127.0.0.1 port={self.port} user={USER} dbname={database} application_name=harness"
        return psycopg.connect(target, autocommit=True, connect_timeout=30)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        command = unprivileged([f"{self._bin}/{program}", *arguments])
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}")

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError((self._folder / "postgres.log").read_text()[-3000:])
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True


class Cluster:
    """The primary and its standby."""

    def __init__(self, folder: Path, network: Network) -> None:
        found = binaries()
        if found is None:
            raise RuntimeError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        self._bin = found
        self._folder = folder / "postgres"
        self._folder.mkdir()
        own(self._folder)
        self._count = 0
        self.primary = self._node()
        self.standby = self._node()
        self.primary.create()
        self.primary.start()
        self._replication = network.forwarder(self.primary.port)
        self.standby.copy_of(self.primary, self._replication.port)
        self.standby.start()
        self.wait_until_synchronous()
        with self.primary.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")

    def _node(self) -> Node:
        self._count += 1
        return Node(self._bin, self._folder, self._count)

    def fail_over(self, how: signal.Signals) -> None:
        """End the primary and make its standby the primary. It has no standby until `add_standby`."""
        old, new = self.primary, self.standby
        old.stop(how)
        new.promote()
        self.primary = new
        shutil.rmtree(old.data)

    def add_standby(self) -> None:
        """Give the primary a new standby. Until then, no commit is answered."""
        self._replication.point_to(self.primary.port)
        self.standby = self._node()
        self.standby.copy_of(self.primary, self._replication.port)
        self.standby.start()
        self.wait_until_synchronous()

    def restart(self, how: signal.Signals) -> None:
        """End the primary and start it again."""
        self.primary.stop(how)
        self.primary.start()

    def lose_primary(self) -> None:
        """The primary dies, and with it all that has not reached the standby. `fail_over` follows."""
        self._replication.cut(refuse=True)
        self.primary.stop(signal.SIGKILL)

    def stall_replication(self) -> None:
        """From now on no commit is answered."""
        self._replication.stall()

    def resume_replication(self) -> None:
        """Undo `stall_replication`."""
        self._replication.flow()

    def wait_until_synchronous(self) -> None:
        """Wait until the standby has all that the primary has answered."""

        def is_synchronous() -> bool:
            with self.primary.connect("postgres") as connection:
                rows = connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall()
            return ("sync",) in rows

        wait_for(is_synchronous, "the standby is synchronous")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._replication.flow()
        for node in (self.standby, self.primary):
            node.stop(signal.SIGKILL)


def wait_for(condition: Any, what: str, pause: float = 0.05) -> None:
    """Poll until `condition()` holds. Raises RuntimeError after ten minutes, which only end what hangs."""
    limit = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > limit:
            raise RuntimeError(f"{_PATIENCE:.0f} s have passed, and it is not true that {what}")
        time.sleep(pause)


def _group_is_alive(process: "subprocess.Popen[bytes] | None") -> bool:
    if process is None:
        return False
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
