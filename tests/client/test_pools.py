"""The client's calls about warm pools, over a server in this process."""

# ruff: noqa: N802 - the methods are named by the contract

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, get_type_hints

import grpc
import pytest
from google.rpc import code_pb2

from gpuproxy import AsyncClient, Client
from gpuproxy.client import AlreadyExists, WrongArgument
from gpuproxy.client.demands import HostFilters, PoolSpec
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import KEY, World, error, served

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str, dict[str, Any]]] = [
    ("status", (7,), {}, "GetWarmPoolStatus", {"machine_id": 7}),
    ("hosts", (), {"gpu_name": "H100", "min_gpus": 4}, "ListWarmPoolHosts", {"gpu_name": "H100", "min_gpus": 4}),
    ("disable", (7,), {}, "DisableWarmPool", {"machine_id": 7}),
    ("enable", (7, 8), {"max_price": 0.5}, "EnableWarmPool", {"host_machine_id": 8, "max_price": 0.5}),
    ("test_failover", (7,), {"allow_destroy": True}, "TestWarmPoolFailover", {"machine_id": 7, "allow_destroy": True}),
    ("failover", (7,), {"allow_unfenced": True}, "FailoverWarmPool", {"machine_id": 7, "allow_unfenced": True}),
    ("cleanup", (7,), {"keep_volume": True}, "CleanupWarmPool", {"machine_id": 7, "keep_volume": True}),
    ("delete_volume", (7, "9"), {}, "DeleteRetainedVolume", {"machine_id": 7, "volume_id": "9"}),
    ("plan", (7, 8), {"disk_size": 60}, "ProvisionWarmPool", {"dry_run": True, "wait": True, "disk_size": 60}),
    ("provision", (7, 8), {"wait": False}, "ProvisionWarmPool", {"dry_run": False, "wait": False}),
]
LONG = {"ProvisionWarmPool", "TestWarmPoolFailover", "FailoverWarmPool", "CleanupWarmPool", "DeleteRetainedVolume"}


class Pools(World):
    """Answers each call about pools with an empty message, and records the requests and their remaining time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self.breaks = 1

    def __getattribute__(self, name: str) -> Any:
        answers = {
            "GetWarmPoolStatus": pb.WarmPoolStatus,
            "ListWarmPoolHosts": pb.ListWarmPoolHostsResponse,
            "ProvisionWarmPool": pb.ProvisionWarmPoolResponse,
            "EnableWarmPool": pb.EnableWarmPoolResponse,
            "DisableWarmPool": pb.DisableWarmPoolResponse,
            "TestWarmPoolFailover": pb.TestWarmPoolFailoverResponse,
            "FailoverWarmPool": pb.FailoverWarmPoolResponse,
            "CleanupWarmPool": pb.CleanupWarmPoolResponse,
            "DeleteRetainedVolume": pb.DeleteRetainedVolumeResponse,
        }
        if name not in answers:
            return super().__getattribute__(name)

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            self._judge(context)
            self.asked[name], self.seconds[name] = request, context.time_remaining()
            return answers[name]()

        return answer

    def ListWarmPools(
        self, request: pb.ListWarmPoolsRequest, context: grpc.ServicerContext
    ) -> pb.ListWarmPoolsResponse:
        number = int(request.page_token or 1)
        token = str(number + 1) if number < 3 else ""
        return pb.ListWarmPoolsResponse(pools=[pb.WarmPoolStatus(machine_id=number)], next_page_token=token)

    def WatchWarmPool(
        self, request: pb.WatchWarmPoolRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WarmPoolStatus]:
        token = int(request.resume_token or 0) + 1
        yield pb.WarmPoolStatus(machine_id=request.machine_id, failover_count=token, resume_token=str(token))
        if self.breaks:
            self.breaks -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "as the test says")


def fields_of(request: Any, names: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names}


@pytest.mark.parametrize(("method", "arguments", "options", "rpc", "fields"), CALLS)
async def test_each_call_sends_its_fields_and_has_its_time(
    method: str, arguments: tuple[Any, ...], options: dict[str, Any], rpc: str, fields: dict[str, Any]
) -> None:
    world = Pools()
    with served(world) as address:
        with Client(address, KEY) as client:
            getattr(client.pools, method)(*arguments, **options)
        first, seconds = world.asked[rpc], world.seconds[rpc]
        async with AsyncClient(address, KEY) as other:
            await getattr(other.pools, method)(*arguments, **options)
    assert fields_of(first, fields) == fields
    assert world.asked[rpc] == first
    assert (seconds > 60) is (rpc in LONG and method != "plan")


async def test_all_pages_of_pools_are_listed() -> None:
    with served(Pools()) as address:
        with Client(address, KEY) as client:
            assert [pool.machine_id for pool in client.pools.list()] == [1, 2, 3]
        async with AsyncClient(address, KEY) as other:
            assert [pool.machine_id async for pool in other.pools.list()] == [1, 2, 3]


async def test_a_broken_watch_resumes_after_its_last_token() -> None:
    async def sleep(_seconds: float) -> None:
        return

    world = Pools()
    with served(world) as address:
        with Client(address, KEY, sleep=lambda _: None) as client:
            assert [each.failover_count for each in client.pools.watch(7)] == [1, 2]
        world.breaks = 1
        async with AsyncClient(address, KEY, sleep=sleep) as other:
            assert [each.failover_count async for each in other.pools.watch(7)] == [1, 2]


def test_what_enable_does_not_name_is_not_sent() -> None:
    world = Pools()
    with served(world) as address, Client(address, KEY) as client:
        client.pools.enable(7, drill_every=timedelta(0), hold_gpu=False)
    request = world.asked["EnableWarmPool"]
    assert request.HasField("drill_every")
    assert request.HasField("hold_gpu")
    assert not request.HasField("gpu_name")
    assert not request.HasField("host_machine_id")


def test_a_wrong_argument_is_named_before_anything_is_sent() -> None:
    world = Pools()
    with served(world) as address, Client(address, KEY) as client:
        with pytest.raises(WrongArgument, match="disk"):
            client.pools.provision(1, 2, disk=50)  # type: ignore[call-arg]
        with pytest.raises(WrongArgument, match="machine_id"):
            client.pools.status("seven")  # type: ignore[arg-type]
    assert not world.asked


def test_an_error_of_the_server_is_raised() -> None:
    world = Pools()
    world.refuse_with = error(code_pb2.ALREADY_EXISTS, "It exists.", "POOL_EXISTS")
    with served(world) as address, Client(address, KEY) as client, pytest.raises(AlreadyExists) as caught:
        client.pools.provision(1, 2)
    assert caught.value.reason == "POOL_EXISTS"


def test_arguments_are_the_fields_of_the_contract() -> None:
    own = {"machine_id", "host_machine_id", "dry_run", "wait", "allow_empty"}
    provision = set(pb.ProvisionWarmPoolRequest.DESCRIPTOR.fields_by_name) - own
    assert set(get_type_hints(PoolSpec)) == provision
    assert set(pb.EnableWarmPoolRequest.DESCRIPTOR.fields_by_name) - own == provision - {"provider"}
    assert set(get_type_hints(HostFilters)) == set(pb.ListWarmPoolHostsRequest.DESCRIPTOR.fields_by_name)
