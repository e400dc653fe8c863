"""Keepalive pings of clients end no call and no connection, however frequent they are."""

import asyncio

import grpc
import pytest
from grpc import aio

from tests.edge.engine import lease, service_over, view
from tests.edge.face import SECONDS, facing
from tests.edge.raw_grpc import DATA, GOAWAY, PING, RawGrpc, connected
from tests.edge.test_streams import ASKED, Watched

pytestmark = pytest.mark.long
PINGS = 50
WATCH = "/gpuproxy.v1.GPUProxyService/WatchReservation"


async def kinds_after_pings(client: RawGrpc) -> list[int]:
    """Each ping is sent when the one before was answered; gRPC's default allows one in five minutes."""
    kinds = []
    for _ in range(PINGS):
        client.ping()
        kinds.append((await client.until(PING)).kind)
        if kinds[-1] == GOAWAY:
            break
    return kinds


async def test_a_stream_survives_a_client_that_pings_all_the_time() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face, connected(face.port) as client, asyncio.timeout(SECONDS):
        client.call(WATCH, ASKED, "gp_user")
        engine.changes.put_nowait(("7", view(lease(1))))
        assert b"res-1" in (await client.until(DATA)).payload
        assert await kinds_after_pings(client) == [PING] * PINGS
        engine.changes.put_nowait(("9", view(lease(1), lease(2))))
        frame = await client.until(DATA)
        assert (frame.kind, frame.stream) == (DATA, 1)


async def test_a_connection_without_calls_survives_pings() -> None:
    engine = Watched()
    async with facing(service_over(engine)) as face, connected(face.port) as client, asyncio.timeout(SECONDS):
        assert await kinds_after_pings(client) == [PING] * PINGS
        client.call(WATCH, ASKED, "gp_user")
        engine.changes.put_nowait(("7", view(lease(1))))
        assert (await client.until(DATA)).kind == DATA


@pytest.mark.parametrize("options", [[], [("grpc.http2.min_ping_interval_without_data_ms", 5000)]])
async def test_a_server_with_other_options_would_have_ended_the_connection(options: list[tuple[str, int]]) -> None:
    server = aio.server(options=[("grpc.so_reuseport", 0), *options])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.Service", {}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connected(port) as client, asyncio.timeout(SECONDS):
        kinds = await kinds_after_pings(client)
        assert (kinds[-1], len(kinds) < PINGS) == (GOAWAY, True)
    await server.stop(0)
