"""PgBouncer in transaction mode before the tests' PostgreSQL, from Debian's package: one for the tests of one process.

It has two connections to each database and gives each transaction the one that was idle for longest, so that whatever
a connection would have to remember is lost.
"""

import os
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests import postgres
from tests.ports import free_port

_CONFIG = """[databases]
* = host={host} port={port} user=tester
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir = {folder}
auth_type = any
pool_mode = transaction
default_pool_size = 8
min_pool_size = 2
server_round_robin = 1
max_client_conn = 300
logfile = {folder}/log
pidfile = {folder}/pid
"""


@cache
def _port() -> int:
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("PgBouncer is not installed: apt-get install pgbouncer")
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    server, folder, port = postgres.server(), Path(tempfile.mkdtemp(prefix="gpx-pool-")), free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(_CONFIG.format(host=server.folder, port=server.port, listen=port, folder=folder))
    postgres.own(folder)
    postgres.own(config)
    command = postgres.unprivileged([program, str(config)], *postgres.ENDS_WITH_US)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    postgres.at_end.callback(end)
    until = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"postgresql://tester@127.0.0.1:{port}/postgres").close()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return port


def through(url: str) -> str:
    """The URL of the same database through the pooler."""
    return f"postgresql://tester@127.0.0.1:{_port()}{urlsplit(url).path}"
