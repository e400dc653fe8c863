"""The real nginx and Envoy, with their files of docs/deploy, in front of a real server; clients use TLS."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub
from tests.deploy.conftest import Running
from tests.deploy.programs import FILES
from tests.deploy.proxies import CHECKS, checked, proxy

pytestmark = pytest.mark.long
KINDS = tuple(CHECKS)
NAMES = {"nginx": "nginx.conf", "envoy": "envoy.yaml"}
SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Visit:
    """A client on the other side of a proxy, and one that talks to the server itself."""

    running: Running
    stub: Any
    channel: aio.Channel
    direct: Any
    web: aiohttp.ClientSession
    url: str

    def call(self, name: str, request: Message, *, direct: bool = False, key: str | None = None) -> Any:
        stub = self.direct if direct else self.stub
        metadata = (("x-api-key", key or self.running.server.key),)
        return getattr(stub, name)(request, metadata=metadata, timeout=SECONDS)

    @property
    def headers(self) -> dict[str, str]:
        return {"X-API-Key": self.running.server.key}

    def later(self) -> datetime:
        """Another end of the reservation each time."""
        return datetime.now(UTC) + timedelta(days=30)

    async def change(self) -> None:
        """Change the reservation, so that its watchers are told."""
        request = pb.ExtendReservationRequest(reservation_id=self.running.reservation_id)
        request.expires_at.FromDatetime(self.later())
        await self.call("ExtendReservation", request, direct=True)


@asynccontextmanager
async def visiting(kind: str, folder: Path, running: Running, text: str | None = None) -> AsyncIterator[Visit]:
    with proxy(kind, folder, running.grpc_port, running.http_port, text) as (port, pki):
        credentials = grpc.ssl_channel_credentials(pki.client().ca)
        context = ssl.create_default_context(cadata=pki.client().ca.decode())
        connector = aiohttp.TCPConnector(ssl=context)
        limits = [("grpc.max_receive_message_length", 8 << 20)]
        async with (
            aio.secure_channel(f"localhost:{port}", credentials, options=limits) as channel,
            aio.insecure_channel(running.server.address, options=limits) as direct,
            aiohttp.ClientSession(connector=connector) as web,
        ):
            yield Visit(
                running, GPUProxyServiceStub(channel), channel, GPUProxyServiceStub(direct), web,
                f"https://localhost:{port}",
            )  # fmt: skip


async def unary_calls(visit: Visit) -> None:
    assert (await visit.call("HealthCheck", pb.HealthCheckRequest())).status in {"ok", "degraded"}
    with pytest.raises(aio.AioRpcError) as refused:
        await visit.call("GetTransactions", pb.GetTransactionsRequest(), key="wrong")
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "x-trace-id" in dict(refused.value.trailing_metadata() or ())
    health = await health_pb2_grpc.HealthStub(visit.channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(visit.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    async for answer in stub.ServerReflectionInfo(asked, timeout=SECONDS):
        assert "gpuproxy.v1.GPUProxyService" in {each.name for each in answer.list_services_response.service}


async def a_large_list(visit: Visit) -> None:
    wanted = pb.ListGPUInstancesRequest(max_price=1000, verified_only=False)
    near = await visit.call("ListGPUInstances", wanted, direct=True)
    far = await visit.call("ListGPUInstances", wanted)
    assert far.ByteSize() > 500_000
    assert abs(len(far.instances) - len(near.instances)) < 50  # the market moves
    url = f"{visit.url}/api/v1/gpu/instances?max_price=1000&verified_only=false"
    async with visit.web.get(url, headers=visit.headers) as answer:
        assert (answer.status, len(json.loads(await answer.read())["instances"])) == (200, len(far.instances))


async def a_watch(visit: Visit) -> None:
    """Each change comes at once, although the stream goes on."""
    watch = visit.call("WatchReservation", pb.WatchReservationRequest(reservation_id=visit.running.reservation_id))
    async with asyncio.timeout(SECONDS):
        seen = {(await watch.read()).reservation.expires_at.ToMicroseconds()}
        for _ in range(2):
            before = len(seen)
            await visit.change()
            while len(seen) == before:
                seen.add((await watch.read()).reservation.expires_at.ToMicroseconds())
    watch.cancel()


async def server_sent_events(visit: Visit) -> None:
    url = f"{visit.url}/api/v1/reservations/{visit.running.reservation_id}/events"
    async with asyncio.timeout(SECONDS), visit.web.get(url, headers=visit.headers) as answer:
        assert answer.content_type == "text/event-stream"
        seen = {await an_event(answer)}
        before = len(seen)
        await visit.change()
        while len(seen) == before:
            seen.add(await an_event(answer))


async def an_event(answer: aiohttp.ClientResponse) -> str:
    while True:
        line = (await answer.content.readline()).decode()
        assert line, "the stream has ended"
        if line.startswith("data:"):
            return str(json.loads(line.removeprefix("data:"))["reservation"]["expires_at"])


async def a_quiet_stream(visit: Visit) -> None:
    """A stream without a change stays open. Envoy and nginx of a broken file end it within a second or two."""
    url = f"{visit.url}/api/v1/reservations/{visit.running.reservation_id}/events"
    async with asyncio.timeout(SECONDS), visit.web.get(url, headers=visit.headers) as answer:
        await an_event(answer)
        while (line := await answer.content.readline()) != b": still here\n":
            assert line, "the stream has ended"


async def cancelled_calls(visit: Visit) -> None:
    """The server hears that a client is gone: what the call rented is released."""
    mine = {"cancelled": visit.url.rpartition(":")[2]}
    request = pb.ReserveGPUsRequest(count=1, max_price=5.0, wait_for="ready", labels=mine)
    visit.running.market.arm("create", "never_ready", times=1)
    call = visit.call("ReserveGPUs", request)
    listed = pb.ListReservationsRequest(labels=mine)
    async with asyncio.timeout(SECONDS):
        while not (found := (await visit.call("ListReservations", listed, direct=True)).reservations):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        call.cancel()
        get = pb.GetReservationRequest(reservation_id=found[0].reservation_id)
        while (await visit.call("GetReservation", get, direct=True)).reservation.state != "released":  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def http_calls(visit: Visit) -> None:
    body = json.dumps({"count": 1, "filters": {"max_price": 5.0}, "dry_run": True})
    async with visit.web.post(f"{visit.url}/api/v1/gpu/instances/reserve", data=body, headers=visit.headers) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers["X-Trace-Id"]
    async with visit.web.get(f"{visit.url}/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


async def closed_metrics(visit: Visit) -> None:
    async with visit.web.get(f"{visit.url}/metrics") as answer:
        assert answer.status == 403


async def only_tls(visit: Visit) -> None:
    async with aio.insecure_channel(visit.url.removeprefix("https://")) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await GPUProxyServiceStub(channel).HealthCheck(pb.HealthCheckRequest(), timeout=SECONDS)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


STORIES: tuple[Callable[[Visit], Awaitable[None]], ...] = (
    unary_calls, a_large_list, a_watch, server_sent_events, http_calls, cancelled_calls, closed_metrics, only_tls,
    a_quiet_stream,
)  # fmt: skip
Broken = tuple[str, str, str, Callable[[Visit], Awaitable[None]]]
"""A proxy, a part of its file, what stands there instead, and the story that fails then."""
BROKEN: tuple[Broken, ...] = (
    ("nginx", "grpc_pass grpc://gpuproxy_grpc", "grpc_pass grpc://gpuproxy_http", unary_calls),
    ("nginx", r"|grpc\.reflection\.[a-z0-9.]+\.ServerReflection", "", unary_calls),
    ("nginx", "proxy_pass http://gpuproxy_http", "proxy_pass http://gpuproxy_grpc", http_calls),
    ("nginx", "deny all", "allow all", closed_metrics),
    ("nginx", "proxy_read_timeout 24h", "proxy_read_timeout 1s", a_quiet_stream),
    (
        "envoy",
        "route: {cluster: gpuproxy_grpc, timeout: 0s}",
        "route: {cluster: gpuproxy_http, timeout: 0s}",
        unary_calls,
    ),
    ("envoy", "{prefix: /grpc.}", "{prefix: /grpc-}", unary_calls),
    ("envoy", "status: 403", "status: 200", closed_metrics),
    ("envoy", "stream_idle_timeout: 0s", "stream_idle_timeout: 1s", a_quiet_stream),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sampled(0)
async def test_calls_streams_and_cancels_pass_the_proxy(kind: str, running: Running, tmp_path: Path) -> None:
    running.market.control("DELETE", "faults")
    async with visiting(kind, tmp_path, running) as visit:
        for story in STORIES:
            await story(visit)


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.sampled(0)
async def test_a_broken_configuration_is_noticed(broken: Broken, running: Running, tmp_path: Path) -> None:
    kind, right, wrong, story = broken
    text = (FILES / NAMES[kind]).read_text()
    assert right in text
    running.market.control("DELETE", "faults")
    async with visiting(kind, tmp_path, running, text.replace(right, wrong)) as visit:
        with pytest.raises((AssertionError, aio.AioRpcError, aiohttp.ClientError)):
            await story(visit)


@pytest.mark.parametrize("kind", KINDS)
def test_each_program_accepts_its_file(kind: str, tmp_path: Path) -> None:
    checked(kind, tmp_path)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("nginx", "keepalive 64;", "keepalive 64"),
        ("nginx", "grpc_pass grpc://gpuproxy_grpc", "grpc_pass grpc://gpuproxy_rpc"),
        ("nginx", "client_body_timeout 24h", "client_body_timeouts 24h"),
        ("nginx", "server.key", "server.pem"),
        ("envoy", "stream_idle_timeout: 0s", "stream_idle_timeouts: 0s"),
        ("envoy", "{cluster: gpuproxy_http, timeout: 0s}", "{cluster: gpuproxy, timeout: 0s}"),
        ("envoy", "filters.http.router.v3.Router", "filters.http.router.v3.Routes"),
        ("envoy", "{http2_protocol_options: {}}", "{http_protocol_options: {}}"),
        ("envoy", "server.key", "server.pem"),
    ],
)
def test_a_file_that_its_program_refuses_is_noticed(kind: str, right: str, wrong: str, tmp_path: Path) -> None:
    text = (FILES / NAMES[kind]).read_text()
    assert right in text
    checked(kind, tmp_path, text.replace(right, wrong), ok=False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_sends_no_call_twice(kind: str) -> None:
    """nginx passes a call on only if it was not sent (`error` without `non_idempotent`)."""
    text = (FILES / NAMES[kind]).read_text()
    settings = [line.partition("#")[0] for line in text.splitlines()]
    if kind == "nginx":
        assert [line.split() for line in settings if "next_upstream" in line] == [
            ["grpc_next_upstream", "error;"],
            ["proxy_next_upstream", "error;"],
        ]
    assert not [line for line in settings if "retry" in line or "hedge" in line]
