"""The database's files are taken away from a running server, and put back."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import KIND, PATIENCE, UNPACED, Market, Server, until


def readiness(server: Server) -> tuple[int, str]:
    """The status of /readyz, and what it says of the database."""
    try:
        with urllib.request.urlopen(f"http://{server.http}/readyz", timeout=PATIENCE) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            status, body = refused.code, refused.read()
    return status, json.loads(body)["checks"]["database"]


def test_with_a_removed_database_nothing_is_rented_and_machines_are_released(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    asked = pb.ReserveGPUsRequest(count=1, max_price=5)
    with Market(tmp_path, *KIND) as market:
        settings = {"GPUPROXY_LOG_FORMAT": "json", **UNPACED}
        with Server(tmp_path, market, **settings) as server, server.client() as client:
            until(client.knows_offers)
            made = client.call("ReserveGPUs", asked)
            until(lambda: readiness(server) == (200, "ok"))
            for file in tmp_path.glob("books.db*"):
                file.rename(away / file.name)
            for _ in range(3):
                with pytest.raises(grpc.RpcError, match="removed or replaced") as refused:
                    client.call("ReserveGPUs", asked)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
                assert readiness(server) == (503, "its file was removed or replaced")
            assert len(market.alive()) == 1
            client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=made.reservation_id))
            until(lambda: market.alive() == {})
            assert list(tmp_path.glob("books.db*")) == []
            for file in away.iterdir():
                file.rename(tmp_path / file.name)
            until(lambda: readiness(server) == (200, "ok"))
            again = client.call("ReserveGPUs", asked)
            assert {i.contract_id for i in again.reserved_instances} == set(market.alive())
            assert server.log().count("database_files_removed") == server.log().count("database_files_restored") == 1
