"""The real server on a real, durable PostgreSQL: restarts of either lose nothing, and the password is never shown."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import forked, postgres
from tests.system.processes import KIND, UNPACED, Market, Server, reserved, until

PASSWORD = "canary-of-the-password"


@pytest.fixture
def durable() -> Iterator[postgres.Server]:
    made = postgres.Server(fsync=True)
    yield made
    made.remove()


def doctor(directory: Path, url: str) -> tuple[int, str]:
    done = forked.run(directory, os.environ | {"GPUPROXY_DATABASE_URL": url}, "doctor")
    return done.returncode, done.stdout + done.stderr


def test_restarts_of_the_server_and_of_the_database_lose_nothing(tmp_path: Path, durable: postgres.Server) -> None:
    url = durable.create().replace("tester@", f"tester:{PASSWORD}@")
    settings = {"GPUPROXY_DATABASE_URL": url, **UNPACED}
    with Market(tmp_path, *KIND) as market, Server(tmp_path, market, **settings) as server:
        with server.client() as client:
            until(client.knows_offers)
            assert reserved(client, "first") is not None
            durable.stop()
            assert reserved(client, "second") is None
            durable.start()
            until(lambda: reserved(client, "second"))
            assert len(market.alive()) == 2
        server.kill()
        server.start()
        with server.client() as client:
            assert {each.contract_id for each in client.instances()} == set(market.alive())
            until(lambda: reserved(client, "first"))
            assert len(market.alive()) == 2
            until(lambda: doctor(tmp_path, url)[0] == 0)
            code, text = doctor(tmp_path, "postgresql://tester:canary-of-the-password@127.0.0.1:1/none")
            assert (code, "can't be opened" in text) == (2, True)
            for each in client.call("ListReservations", pb.ListReservationsRequest()).reservations:
                client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=each.reservation_id))
            until(lambda: market.alive() == {})
        assert PASSWORD not in server.log() + text + doctor(tmp_path, url)[1]


def test_commands_for_files_say_what_to_use_instead(tmp_path: Path, durable: postgres.Server) -> None:
    url = durable.create()
    done = forked.run(tmp_path, os.environ | {"GPUPROXY_DATABASE_URL": url}, "backup", "copy.db")
    assert (done.returncode, "pg_dump" in done.stderr) == (2, True)
