"""The Python client against the real program, killed and restarted in the middle."""

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpuproxy import AsyncClient, Client
from gpuproxy.client import NotEnoughGPUs, NotFound
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import KIND, PATIENCE, UNPACED, Market, Server, until


def address_for_two_lives() -> str:
    """Below the ports that the system gives out, so that nobody is given it while no server has it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with Market(tmp_path, *KIND, "--boot-time", "4,5") as started:
        yield started


@pytest.fixture
def server(tmp_path: Path, market: Market) -> Iterator[Server]:
    with Server(tmp_path, market, GPUPROXY_GRPC_ADDR=address_for_two_lives(), **UNPACED) as started:
        with started.client() as client:
            until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count)
        yield started


def test_the_main_job_goes_on_over_a_killed_server(server: Server, market: Market) -> None:
    with Client(server.address, server.key) as client:
        assert client.list(provider="vast.ai", min_vram=16, max_price=2.0, page_size=5).instances
        with client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0, request_id="train-1") as reservation:
            server.kill()
            server.start()
            reservation.wait_ready(PATIENCE)
            assert {gpu.status for gpu in reservation.instances} == {"active"}
            assert {gpu.contract_id for gpu in reservation.instances} == set(market.alive())
            assert {load.instance_id for load in client.load("server").server_load} == set(market.alive())
            again = client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0, request_id="train-1")
            assert again.id == reservation.id
        assert reservation.view.state in ("releasing", "released")
        until(lambda: not market.alive())


async def test_the_main_job_works_for_asyncio_too(server: Server, market: Market) -> None:
    async with AsyncClient(server.address, server.key) as client:
        async with await client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0) as reservation:
            await reservation.wait_ready(PATIENCE)
            assert sum(gpu.num_gpus for gpu in reservation.instances) == 2
            first = reservation.instances[0]
            assert (await client.get(first.contract_id)).ssh.host == first.ssh.host
            assert (await client.destroy(first.contract_id)).success
        with pytest.raises(NotEnoughGPUs) as refused:
            await client.reserve(1, gpu_model="GPU of nobody")
        assert refused.value.metadata["requested"] == "1"
        with pytest.raises(NotFound):
            await client.reservation("no-such-reservation")
    until(lambda: not market.alive())
