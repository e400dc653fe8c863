"""Callers who leave and servers that stop in the middle of renting sixteen machines, over a real channel.

With a request_id everything that was kept is found by it; without one nothing is left at the market. The market counts.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import PATIENCE, Client, Market, Server, until

_SCALE = "8"
_PACES = (("8", 6.0), ("2", 24.0), ("0.5", 96.0))
"""Time scales, and deadlines (s) that end while the sixteen are created. A busy machine may need a slower market."""
_BOTH = pytest.mark.parametrize("request_id", ["", "kept"], ids=["nameless", "named"])


def sixteen(request_id: str = "") -> pb.ReserveGPUsRequest:
    """The creates of it take 68 s of the market, 8.5 real ones, on any machine: their pace is the market's."""
    return pb.ReserveGPUsRequest(count=16, max_price=5, packing="single", request_id=request_id)


@pytest.fixture(name="market")
def _market(tmp_path: Path) -> Iterator[Market]:
    with _market_at(tmp_path, _SCALE) as market:
        yield market


@pytest.fixture(name="server")
def _server(tmp_path: Path, market: Market) -> Iterator[Server]:
    with _server_at(tmp_path, market, _SCALE) as server:
        yield server


def _market_at(folder: Path, scale: str) -> Market:
    return Market(folder, "--time-scale", scale, "--machines", "100")


@contextmanager
def _server_at(folder: Path, market: Market, scale: str) -> Iterator[Server]:
    with Server(folder, market, GPUPROXY_TIME_SCALE=scale) as server:
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
def test_a_call_with_a_short_deadline_is_answered_in_time_with_what_exists(tmp_path: Path, request_id: str) -> None:
    _at_some_pace(tmp_path, lambda market, server, deadline: _answered_in_time(market, server, request_id, deadline))


def _at_some_pace(tmp_path: Path, check: Callable[[Market, Server, float], None]) -> None:
    """Run a check at a slower pace of the market if the machine is too busy to answer before the deadline."""
    for scale, deadline in _PACES:
        folder = tmp_path / scale
        folder.mkdir()
        with _market_at(folder, scale) as market, _server_at(folder, market, scale) as server:
            try:
                check(market, server, deadline)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or scale == _PACES[-1][0]:
                    raise
            else:
                break


def _answered_in_time(market: Market, server: Server, request_id: str, deadline: float) -> None:
    with server.client() as client:
        answer = client.call("ReserveGPUs", sixteen(request_id), timeout=deadline)
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
    tmp_path: Path, request_id: str
) -> None:
    _at_some_pace(tmp_path, lambda market, server, deadline: _outlasts(market, server, request_id, deadline))


def _outlasts(market: Market, server: Server, request_id: str, deadline: float) -> None:
    market.arm("create", "hang_after", after=1, seconds=2 * deadline)
    with server.client() as client:
        request = pb.ReserveGPUsRequest(count=2, max_price=5, packing="single", request_id=request_id)
        answer = client.call("ReserveGPUs", request, timeout=deadline)
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
    if not request_id:
        until(lambda: market.alive() == {})
        return
    told = []
    for _ in range(2):  # the first one waits until the reservation is settled
        again = client.call("ReserveGPUs", request or sixteen(request_id))
        told.append({one.contract_id for one in again.reserved_instances})
        assert set(market.alive()) == told[0], "asking again rented more"
    assert told[0] == told[1] != set()
