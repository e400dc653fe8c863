"""Many callers at once, over real sockets, on a market that is too small for all of them."""

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub
from tests.system.processes import KIND, PATIENCE, UNPACED, Market, Server, until

_ANSWERS = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("callers", [60, 200])
def test_many_callers_never_share_a_chunk_and_all_get_correct_answers(tmp_path: Path, callers: int):
    options = (*KIND, "--machines", "40", "--seed", "11", "--time-scale", "20")
    with Market(tmp_path, *options) as market, Server(tmp_path, market, GPUPROXY_TIME_SCALE="20", **UNPACED) as server:
        _until_read(server)
        answers = asyncio.run(_storm(server, callers))
        told = {
            i.contract_id: i.num_gpus for answer in answers if answer is not None for i in answer.reserved_instances
        }
        alive = market.alive()
        assert set(told) == set(alive)
        assert {id_: i["num_gpus"] for id_, i in alive.items()} == told
        with server.client() as client:
            books = {i.contract_id: i for i in client.instances()}
        assert set(books) == set(alive)
        assert all(alive[id_]["label"] for id_ in alive)
        assert {i["account"] for i in alive.values()} <= {"sandbox-key", "vast-1"}
        assert sum(told.values()) >= 40
        assert any(answer is None for answer in answers), "the market was not too small"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("calls", [1000, 5000])
def test_thousands_of_calls_with_one_request_id_are_one_reservation(tmp_path: Path, calls: int):
    options = (*KIND, "--machines", "40", "--time-scale", "20", "--create-latency", "20")
    with Market(tmp_path, *options) as market, Server(tmp_path, market, GPUPROXY_TIME_SCALE="20", **UNPACED) as server:
        _until_read(server)
        answers = asyncio.run(_duplicates(server, calls, at_once=400))
        assert len(answers) == calls
        assert len({answer.reservation_id for answer in answers}) == 1
        assert {tuple(i.contract_id for i in answer.reserved_instances) for answer in answers} == {
            tuple(market.alive())
        }
        assert market.state()["calls"]["vast.ai"]["create"] == 4


def _until_read(server: Server) -> None:
    with server.client() as client:
        until(client.knows_offers)


async def _duplicates(server: Server, calls: int, *, at_once: int) -> list[pb.ReserveGPUsResponse]:
    request = pb.ReserveGPUsRequest(count=4, max_price=20, request_id="one and the same")
    turns = asyncio.Semaphore(at_once)
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = GPUProxyServiceStub(channel)

        async def call() -> pb.ReserveGPUsResponse:
            async with turns:
                answer: pb.ReserveGPUsResponse = await stub.ReserveGPUs(
                    request, metadata=(("x-api-key", server.key),), timeout=PATIENCE
                )
                return answer

        return await asyncio.gather(*(call() for _ in range(calls)))


async def _storm(server: Server, callers: int) -> list[pb.ReserveGPUsResponse | None]:
    dice = random.Random(5)
    sizes = [dice.choice((1, 1, 2, 3, 4, 8, 16)) for _ in range(callers)]
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = GPUProxyServiceStub(channel)
        return await asyncio.gather(*(_reserve(stub, server.key, size) for size in sizes))


async def _reserve(stub: Any, key: str, count: int) -> pb.ReserveGPUsResponse | None:
    request = pb.ReserveGPUsRequest(count=count, max_price=20, verified_only=False)
    try:
        answer: pb.ReserveGPUsResponse = await stub.ReserveGPUs(
            request, metadata=(("x-api-key", key),), timeout=PATIENCE
        )
    except aio.AioRpcError as error:
        assert error.code() in _ANSWERS, error
        return None
    assert answer.reserved_count == sum(i.num_gpus for i in answer.reserved_instances) <= count
    return answer
