"""Callers who leave and servers that stop in the middle of renting sixteen machines, over a real channel.

With a request_id everything that was kept is found by it; without one nothing is left at the market. The market counts.
"""

import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import PATIENCE, Client, Market, Server, until

_SCALE = "8"
_BOTH = pytest.mark.parametrize("request_id", ["", "kept"], ids=["nameless", "named"])


def sixteen(request_id: str = "") -> pb.ReserveGPUsRequest:
    """The creates of it take 68 s of the market, 8.5 real ones, on any machine: their pace is the market's."""
    return pb.ReserveGPUsRequest(count=16, max_price=5, packing="single", request_id=request_id)


@pytest.fixture(name="market")
def _market(tmp_path: Path) -> Any:
    with Market(tmp_path, "--time-scale", _SCALE, "--machines", "100") as market:
        yield market


@pytest.fixture(name="server")
def _server(tmp_path: Path, market: Market) -> Any:
    with Server(tmp_path, market, GPUPROXY_TIME_SCALE=_SCALE) as server:
        with server.client() as client:
            until(client.knows_offers)
        yield server


@_BOTH
def test_who_cancels_finds_everything_by_the_request_id_or_leaves_nothing(
    market: Market, server: Server, request_id: str
) -> None:
    with server.client() as client:
        call = client.future("ReserveGPUs", sixteen(request_id))
        until(lambda: len(market.alive()) >= 4)
        call.cancel()
        _quiet(market, client)
        _kept_or_nothing(market, client, request_id)
        assert 4 <= _creates(market) < 16, "creates were started after the caller had left"


@_BOTH
def test_a_call_with_a_short_deadline_is_answered_in_time_with_what_exists(
    market: Market, server: Server, request_id: str
) -> None:
    with server.client() as client:
        answer = client.call("ReserveGPUs", sixteen(request_id), timeout=6)
        told = {one.contract_id for one in answer.reserved_instances}
        assert 1 <= answer.reserved_count < 16
        assert told == set(market.alive())
        _quiet(market, client)
        assert set(market.alive()) == told
        rest = {outcome.reason for outcome in answer.outcomes if outcome.state != "reserved"}
        assert "NOT_ATTEMPTED" in rest
        assert rest <= {"NOT_ATTEMPTED", "RATE_LIMITED"}  # a busy machine is late, so that the next call is early


@_BOTH
def test_a_create_that_outlasts_its_call_is_kept_with_a_request_id_and_released_without(
    market: Market, server: Server, request_id: str
) -> None:
    market.arm("create", "hang_after", after=1, seconds=12)
    with server.client() as client:
        request = pb.ReserveGPUsRequest(count=2, max_price=5, packing="single", request_id=request_id)
        answer = client.call("ReserveGPUs", request, timeout=8)
        assert answer.reserved_count == 1
        assert market.state()["calls"]["vast.ai"]["create"] == 2
        until(lambda: all(i.status in ("starting", "active") for i in client.instances()))
        _quiet(market, client)
        told = {one.contract_id for one in answer.reserved_instances}
        assert told <= set(market.alive())
        assert len(market.alive()) == (2 if request_id else 1)
        if request_id:
            _kept_or_nothing(market, client, request_id, request)


@_BOTH
def test_a_stopping_server_answers_with_what_there_is_and_loses_nothing(
    market: Market, server: Server, request_id: str
) -> None:
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        words = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        call = client.future("ReserveGPUs", sixteen(request_id))
        until(lambda: len(market.alive()) >= 4)
        assert any(word.status == health_pb2.HealthCheckResponse.SERVING for word in words)
        server.signal(signal.SIGTERM)
        assert next(words).status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = call.result()
    assert server.ended() == 0
    told = {one.contract_id for one in answer.reserved_instances}
    assert 4 <= answer.reserved_count < 16
    assert told == set(market.alive())
    assert f"machines={len(told)} " in next(
        line for line in server.log().splitlines() if "machines_stay_rented" in line
    )
    server.start()
    with server.client() as client:
        assert {one.contract_id for one in client.instances()} == told
        _quiet(market, client)
        assert set(market.alive()) == told


def test_a_create_whose_connection_is_reset_reaches_the_market_once(market: Market, server: Server) -> None:
    market.arm("create", "reset_after")
    with server.client() as client:
        request = pb.ReserveGPUsRequest(count=1, max_price=5, request_id="once")
        client.call("ReserveGPUs", request)
        _quiet(market, client)
        assert _creates(market) == 1
        assert len(market.state()["instances"]) == 1
        _kept_or_nothing(market, client, "once", request)


def _creates(market: Market) -> int:
    """Creates that reached the market, executed or not."""
    return int(market.state()["calls"]["vast.ai"]["create"])


def _quiet(market: Market, client: Client) -> None:
    """Wait until nothing is under way any more, and the books and the market agree."""
    until(lambda: all(i.status in ("starting", "active") for i in client.instances()) and _agree(market, client))


def _agree(market: Market, client: Client) -> bool:
    return {i.contract_id for i in client.instances()} == set(market.alive())


def _kept_or_nothing(
    market: Market, client: Client, request_id: str, request: pb.ReserveGPUsRequest | None = None
) -> None:
    alive = set(market.alive())
    if request_id:
        again = client.call("ReserveGPUs", request or sixteen(request_id))
        assert {one.contract_id for one in again.reserved_instances} == alive
        assert alive
        assert set(market.alive()) == alive, "asking again rented more"
    else:
        assert alive == set()
