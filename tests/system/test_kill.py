"""The real process, killed without warning in the middle of renting."""

from pathlib import Path

import grpc
import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import Client, Market, Server, until

_SCALE = "20"


@pytest.mark.parametrize("request_id", ["", "kept"])
def test_a_killed_server_finishes_what_it_left_when_it_starts_again(tmp_path: Path, request_id: str):
    with Market(tmp_path, "--time-scale", _SCALE) as market:
        server = Server(tmp_path, market, GPUPROXY_TIME_SCALE=_SCALE)
        with server, server.client() as client:
            until(client.knows_offers)
            call = client.future("ReserveGPUs", pb.ReserveGPUsRequest(count=16, max_price=5, request_id=request_id))
            until(lambda: len(market.alive()) >= 4)
            server.kill()
            assert len(market.alive()) >= 4
            with pytest.raises(grpc.RpcError):
                call.result()
        server.start()
        with server, server.client() as client:
            until(lambda: _agree(market, client) and (bool(request_id) or not market.alive()))
            alive = market.alive()
            if request_id:
                assert len(alive) >= 4
                again = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=16, max_price=5, request_id=request_id))
                assert {i.contract_id for i in again.reserved_instances} == set(alive)
            else:
                assert alive == {}


def _agree(market: Market, client: Client) -> bool:
    books = {i.contract_id for i in client.instances() if i.status in ("starting", "active")}
    return books == set(market.alive())
