"""PostgreSQL is restored to an earlier point in time, as docs/postgres.md says, while the market has gone on."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import postgres
from tests.system.processes import KIND, UNPACED, Client, Market, Server, until


@pytest.fixture
def archived() -> Iterator[postgres.Server]:
    """A server that archives its log."""
    settings = {"archive_mode": "on", "archive_command": "cp %p ../archive/%f", "wal_level": "replica"}
    made = postgres.Server(settings=settings)
    archive = made.folder / "archive"
    archive.mkdir()
    postgres.own(archive)
    yield made
    made.remove()


def base_backup(server: postgres.Server) -> Path:
    """A base backup, without the log that was written meanwhile: that is archived."""
    backup = server.folder / "backup"
    server._run("pg_basebackup", "-D", str(backup), "-h", str(server.folder), "-p", str(server.port), "-U", "tester",
                "--checkpoint=fast", "--wal-method=none")  # fmt: skip
    return backup


def restore(server: postgres.Server, backup: Path, moment: str) -> None:
    """Replace the stopped server's files, and return when it can be written."""
    shutil.rmtree(server._data)
    backup.rename(server._data)
    with (server._data / "postgresql.conf").open("a") as file:
        file.write(f"restore_command = 'cp ../archive/%f %p'\nrecovery_target_time = '{moment}'\n")
        file.write("recovery_target_action = 'promote'\n")
    (server._data / "recovery.signal").touch()
    postgres.own(server._data / "recovery.signal")
    server.start()
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        while admin.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
            time.sleep(0.05)


def reserve(client: Client, request_id: str) -> tuple[str, str]:
    """The reservation and its machine."""
    made = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5, request_id=request_id))
    [machine] = made.reserved_instances
    return made.reservation_id, machine.contract_id


def test_machines_rented_after_the_restored_point_are_named_and_those_before_it_are_kept(
    tmp_path: Path, archived: postgres.Server
) -> None:
    url = archived.create()
    settings = UNPACED | {
        "GPUPROXY_DATABASE_URL": url, "GPUPROXY_ALLOW_UNSAFE_POSTGRES": "true", "GPUPROXY_LOG_FORMAT": "json",
    }  # fmt: skip
    with Market(tmp_path, *KIND) as market:
        with Server(tmp_path, market, **settings) as server, server.client() as client:
            until(client.knows_offers)
            ending, ended = reserve(client, "released later")
            backup = base_backup(archived)
            kept, machine = reserve(client, "before")
            with psycopg.connect(url, autocommit=True) as admin:
                [moment] = admin.execute("SELECT clock_timestamp()::text").fetchone() or ()
            later, orphan = reserve(client, "after")
            client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=ending))
            until(lambda: set(market.alive()) == {machine, orphan})
        archived.stop()
        restore(archived, backup, moment)
        with Server(tmp_path, market, **settings) as server, server.client() as client:
            until(lambda: {each.contract_id for each in client.instances()} == {machine})
            listed = client.call("ListReservations", pb.ListReservationsRequest()).reservations
            assert {each.reservation_id for each in listed} == {kept, ending}
            assert later not in {kept, ending}
            until(lambda: any("orphans_found" in line and orphan in line for line in server.log().splitlines()))
            assert reserve(client, "before") == (kept, machine)
            assert set(market.alive()) == {machine, orphan}  # an orphan has ten minutes
            assert ended not in market.alive()
