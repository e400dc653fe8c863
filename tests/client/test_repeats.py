"""Which calls the channel retries: real channels, and a server in this process that refuses the first calls."""

# ruff: noqa: N802 - the methods are named by the contract

import json
from typing import get_type_hints

import grpc
import pytest

from gpuproxy import AsyncClient, Client
from gpuproxy.client import Unavailable
from gpuproxy.client.channel import channel_options, endpoint, service_config
from gpuproxy.client.demands import Demand, Filters
from gpuproxy.client.rentals import RENTALS
from gpuproxy.edge.rpc.rpcs import READS
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import KEY, World, served

CONTRACT = pb.DESCRIPTOR.services_by_name["GPUProxyService"]
REPEATABLE = {
    "DestroyGPUInstance",
    "ReleaseReservation",
    "ExtendReservation",
    "SetLoadBalancerStrategy",
    "RevokeAPIKey",
    "ProvisionWarmPool",
    "EnableWarmPool",
    "DisableWarmPool",
    "CleanupWarmPool",
    "DeleteRetainedVolume",
}
BY_REQUEST_ID = {"ReserveGPUs", "CreateGPUInstance"}
SAID = (("x-api-key", KEY),)


class Busy(World):
    """Refuses the first calls; `pushback` is its retry trailer in milliseconds."""

    def __init__(self, refusals: int, pushback: str = "10") -> None:
        super().__init__()
        self.refusals = refusals
        self.pushback = pushback
        self.asked: list[str] = []

    def ReserveGPUs(self, request: pb.ReserveGPUsRequest, context: grpc.ServicerContext) -> pb.ReserveGPUsResponse:
        self.asked.append(request.request_id)
        self._refuse(context)
        return super().ReserveGPUs(request, context)

    def GetReservation(
        self, request: pb.GetReservationRequest, context: grpc.ServicerContext
    ) -> pb.GetReservationResponse:
        self.asked.append(request.reservation_id)
        self._refuse(context)
        return pb.GetReservationResponse(reservation=pb.Reservation(reservation_id=request.reservation_id))

    def _refuse(self, context: grpc.ServicerContext) -> None:
        if self.refusals:
            self.refusals -= 1
            context.set_trailing_metadata((("grpc-retry-pushback-ms", self.pushback),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")


def test_retries_of_one_call_have_the_same_request_id() -> None:
    world = Busy(2)
    with served(world) as address, Client(address, KEY) as client:
        assert client.reserve(1).id == "res-1"
    assert len(world.asked) == 3
    assert len(set(world.asked)) == 1
    assert world.asked[0]


async def test_the_asynchronous_client_retries_too() -> None:
    world = Busy(2)
    with served(world) as address:
        async with AsyncClient(address, KEY) as client:
            assert (await client.reserve(1)).id == "res-1"
    assert len(world.asked) == 3
    assert len(set(world.asked)) == 1


def test_retries_of_a_rental_by_the_stub_have_the_same_request_id() -> None:
    world = Busy(2)
    with served(world) as address, Client(address) as client:
        client.stub.ReserveGPUs(pb.ReserveGPUsRequest(count=1), metadata=SAID)
        client.stub.ReserveGPUs(pb.ReserveGPUsRequest(count=1), metadata=SAID)
    assert len(world.asked) == 4
    assert len(set(world.asked[:3])) == 1
    assert len({*world.asked, ""}) == 3


async def test_retries_of_a_rental_by_the_asynchronous_stub_have_the_same_request_id() -> None:
    world = Busy(2)
    with served(world) as address:
        async with AsyncClient(address) as client:
            await client.stub.ReserveGPUs(pb.ReserveGPUsRequest(count=1), metadata=SAID)
    assert len(world.asked) == 3
    assert len(set(world.asked)) == 1
    assert world.asked[0]


def test_retries_on_the_callers_channel_have_the_same_request_id() -> None:
    world = Busy(2)
    options = channel_options("127.0.0.1:1", repeats=True)
    with served(world) as address, grpc.insecure_channel(address, options=options) as channel:
        Client(channel=channel).stub.ReserveGPUs(pb.ReserveGPUsRequest(count=1), metadata=SAID)
    assert len(world.asked) == 3
    assert len(set(world.asked)) == 1
    assert world.asked[0]


def test_a_call_is_not_retried_if_the_server_forbids_it() -> None:
    world = Busy(2, pushback="-1")
    with served(world) as address, Client(address, KEY) as client, pytest.raises(Unavailable) as caught:
        client.reserve(1)
    assert world.asked == [caught.value.request_id]


def test_reads_are_retried() -> None:
    world = Busy(1)
    with served(world) as address, Client(address, KEY) as client:
        assert client.reservation("res-7").id == "res-7"
    assert world.asked == ["res-7", "res-7"]


def test_only_calls_that_are_safe_to_retry_are_in_the_service_config() -> None:
    plain, rentals = json.loads(service_config())["methodConfig"]
    assert {entry["service"] for entry in plain["name"] + rentals["name"]} == {CONTRACT.full_name}
    assert {entry["method"] for entry in rentals["name"]} == BY_REQUEST_ID
    named = {entry["method"] for entry in plain["name"]}
    assert named <= READS | REPEATABLE | {"HealthCheck"}
    assert named <= set(CONTRACT.methods_by_name)
    for config in (plain, rentals):
        assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_the_rentals_are_exactly_the_calls_with_a_request_id() -> None:
    named = {m.name for m in CONTRACT.methods if "request_id" in m.input_type.fields_by_name}
    assert named == BY_REQUEST_ID == set(RENTALS)


def test_arguments_are_the_fields_of_the_contract() -> None:
    demand = set(pb.ReserveGPUsRequest.DESCRIPTOR.fields_by_name) - {"count", "dry_run"}
    assert set(get_type_hints(Demand)) == demand
    assert set(get_type_hints(Filters)) == set(pb.ListGPUInstancesRequest.DESCRIPTOR.fields_by_name) - {"state"}


def test_address_and_key_come_from_the_environment_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPUPROXY_SERVER", raising=False)
    monkeypatch.delenv("GPUPROXY_API_KEY", raising=False)
    assert (endpoint("", None).server, endpoint("", None).metadata) == ("localhost:9090", ())
    monkeypatch.setenv("GPUPROXY_SERVER", "gpus:9090")
    monkeypatch.setenv("GPUPROXY_API_KEY", "gpx-1")
    assert (endpoint("", None).server, endpoint("", None).key) == ("gpus:9090", "gpx-1")
    assert endpoint("", "").metadata == ()
    assert (endpoint("other:1", "gpx-2").server, endpoint("other:1", "gpx-2").key) == ("other:1", "gpx-2")
