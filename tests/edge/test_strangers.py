"""Many clients without valid credentials: their requests aren't parsed, and they don't block other clients."""
# ruff: noqa: N802 - methods of a service are named as in the contract

import asyncio
import base64
from contextlib import AsyncExitStack, ExitStack

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode

from gpuproxy.edge.messages.json_codec import MAX_ENTRIES
from gpuproxy.edge.rpc.concurrency import ConcurrencyLimit
from gpuproxy.edge.rpc.dispatch import SMALL_BYTES
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import TooManyCalls
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, service_over
from tests.edge.face import SECONDS, V1, facing
from tests.edge.http_face import Both, both_faces

RESERVE = "/api/v1/gpu/instances/reserve"
STRATEGY = "/api/v1/loadbalancer/strategy"
LOGIN = "/api/v1/auth/login"
A_FEW = 8
"""Requests that say who is calling, from one network."""


class Door:
    """A Login that finishes when the test says so."""

    def __init__(self) -> None:
        self.inside = 0
        self.entered = asyncio.Condition()
        self.open = asyncio.Event()

    async def Login(self, _request: pb.LoginRequest, _caller: Caller) -> pb.LoginResponse:
        async with self.entered:
            self.inside += 1
            self.entered.notify_all()
        await self.open.wait()
        return pb.LoginResponse(token="t")

    async def GetLoadBalancerStrategy(self, _request: object, _caller: Caller) -> pb.GetLoadBalancerStrategyResponse:
        return pb.GetLoadBalancerStrategyResponse(strategy="lowest_price")

    async def hold(self, many: int) -> None:
        async with asyncio.timeout(SECONDS), self.entered:
            await self.entered.wait_for(lambda: self.inside == many)


def begun(path: str, *headers: bytes) -> bytes:
    """The head of a request and the first byte of its body; the rest never arrives."""
    lines = [b"POST " + path.encode() + b" HTTP/1.1", b"Host: x", b"Content-Length: 500", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n{"


async def unfinished(both: Both, stack: AsyncExitStack, *sent: bytes) -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
    stack.callback(writer.close)
    for piece in sent:
        writer.write(piece)
    await writer.drain()
    return reader


async def test_a_request_without_valid_credentials_is_not_parsed() -> None:
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        nonsense = b'{"a":' * 100_000
        assert (await both.send("POST", RESERVE, nonsense, key=None)).status == 401
        assert (await both.send("POST", RESERVE, nonsense, key="wrong")).status == 401
        assert (await both.send("POST", RESERVE, nonsense, key="gp_viewer")).status == 403
        assert (await both.send("POST", RESERVE, nonsense)).status == 400
        call = both.grpc.channel.unary_unary(f"/{V1}/ReserveGPUs")
        for key, code in (("wrong", StatusCode.UNAUTHENTICATED), ("gp_user", StatusCode.INVALID_ARGUMENT)):
            sent = call(b"\xff" * 100, metadata=(("x-api-key", key),), timeout=SECONDS)
            assert await sent.code() is code


async def test_validation_ends_after_fifty_errors() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        some = await both.send("POST", RESERVE, {f"field{number}": 1 for number in range(49)})
        many = await both.send("POST", RESERVE, {f"field{number}": 1 for number in range(5000)})
        long = await both.send("POST", RESERVE, {"ports": [1] * (MAX_ENTRIES + 1)})
    assert some.error["message"].endswith("(and 48 more)")
    assert many.error["message"].endswith("(and 49 more)")
    assert long.violations() == {"ports": f"must have at most {MAX_ENTRIES} entries"}


@pytest.mark.parametrize("credentials", [(), (b"X-API-Key: wrong",)], ids=["none", "wrong"])
async def test_endless_bodies_of_anonymous_clients_do_not_block_others(credentials: tuple[bytes, ...]) -> None:
    async with both_faces(service_over(StubEngine()), max_concurrent=1) as both, AsyncExitStack() as stack:
        readers = [await unfinished(both, stack, begun(RESERVE, *credentials)) for _ in range(3)]
        assert (await both.send("GET", STRATEGY)).status == 200
        async with asyncio.timeout(SECONDS):
            for reader in readers:
                assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        assert (await both.send("GET", STRATEGY)).status == 200


async def test_logins_with_endless_bodies_block_only_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.server.ANONYMOUS_BODY_SECONDS", 0.3)
    door = Door()
    door.open.set()
    async with both_faces(door, max_concurrent=1) as both, AsyncExitStack() as stack:
        readers = [await unfinished(both, stack, begun(LOGIN)) for _ in range(A_FEW)]
        assert (await both.send("GET", STRATEGY)).status == 200
        async with asyncio.timeout(SECONDS):
            for reader in readers:
                assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        assert (await both.send("POST", LOGIN, {}, key=None)).status == 200


async def test_concurrent_logins_of_one_network_are_limited_across_both_interfaces() -> None:
    door = Door()
    async with both_faces(door, max_concurrent=1) as both:
        half = [both.send("POST", LOGIN, {}, key=None) for _ in range(A_FEW // 2)]
        calls = [asyncio.ensure_future(each) for each in half]
        calls += [asyncio.ensure_future(both.grpc.call("Login", metadata={})) for _ in range(A_FEW - len(calls))]
        await door.hold(A_FEW)
        over_http = await both.send("POST", LOGIN, {}, key=None)
        over_grpc = await both.grpc.refused("Login", metadata={})
        assert (over_http.status, over_http.error["reason"]) == (429, "TOO_MANY_CALLS")
        assert over_http.headers["Retry-After"] == "1"
        assert over_grpc.code is StatusCode.RESOURCE_EXHAUSTED
        assert over_grpc.detail(error_details_pb2.RetryInfo).retry_delay.seconds == 1
        assert (await both.send("GET", STRATEGY)).status == 200
        await both.grpc.call("GetLoadBalancerStrategy")
        door.open.set()
        await asyncio.gather(*calls)
        assert (await both.send("POST", LOGIN, {}, key=None)).status == 200


async def test_a_request_with_credentials_in_its_body_must_be_small() -> None:
    door = Door()
    door.open.set()
    async with both_faces(door) as both:
        long = await both.send("POST", LOGIN, {"email": "a" * SMALL_BYTES}, key=None)
        assert long.violations() == {"body": f"must be at most {SMALL_BYTES} bytes"}
        request = pb.LoginRequest(email="a" * SMALL_BYTES)
        refused = await both.grpc.refused("Login", request)
        assert (refused.code, refused.text) == (
            StatusCode.INVALID_ARGUMENT, f"request: must be at most {SMALL_BYTES} bytes",
        )  # fmt: skip
        assert (await both.send("POST", LOGIN, {"email": "a" * (SMALL_BYTES - 100)}, key=None)).status == 200
    assert door.inside == 1


async def test_the_token_in_the_body_of_create_api_key_overrides_the_headers() -> None:
    callers = []

    class Keys:
        async def CreateAPIKey(self, _request: object, caller: Caller) -> pb.CreateAPIKeyResponse:
            callers.append(caller.role)
            return pb.CreateAPIKeyResponse()

    async with facing(Keys()) as face:
        named = pb.CreateAPIKeyRequest(name="n", token="gp_user")
        await face.call("CreateAPIKey", named, metadata={})
        await face.call("CreateAPIKey", named, key="gp_admin")
        await face.call("CreateAPIKey", pb.CreateAPIKeyRequest(name="n"), key="gp_admin")
        for key, token in (("wrong", "gp_user"), ("gp_admin", "wrong")):
            refused = await face.refused("CreateAPIKey", pb.CreateAPIKeyRequest(name="n", token=token), key=key)
            assert refused.code is StatusCode.UNAUTHENTICATED
    assert callers == ["user", "user", "admin"]


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
@pytest.mark.parametrize("good", [(0,), (1,), (0, 1)], ids=["first", "last", "both"])
async def test_two_credentials_of_one_name_are_refused_by_both_interfaces(name: str, good: tuple[int, ...]) -> None:
    prefix = "Bearer " if name == "authorization" else ""
    pairs = tuple((name, prefix + ("gp_user" if each in good else "wrong")) for each in range(2))
    async with both_faces(service_over(StubEngine())) as both:
        call = both.grpc.channel.unary_unary(f"/{V1}/GetLoadBalancerStrategy")
        for sent, code, line in (
            (pairs, StatusCode.UNAUTHENTICATED, b"HTTP/1.1 401 "),
            (pairs[good[0] : good[0] + 1], StatusCode.OK, b"HTTP/1.1 200 "),
        ):
            assert await call(b"", metadata=sent, timeout=SECONDS).code() is code
            lines = b"".join(f"{each}: {value}\r\n".encode() for each, value in sent)
            raw = b"GET " + STRATEGY.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines + b"\r\n"
            assert (await both.raw(raw)).startswith(line)


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, f'["", {"9" * 400}, "x"]', '["", NaN, "x"]', '["", 1.0]', '{"a": 1}', '["", "1", "x"]', "[1, 2, 3]"],
)
async def test_an_invalid_page_token_is_reported_by_field(text: str) -> None:
    token = base64.urlsafe_b64encode(text.encode()).decode()
    async with facing(service_over(StubEngine())) as face:
        refused = await face.refused("ListGPUInstances", pb.ListGPUInstancesRequest(page_token=token))
    assert (refused.code, set(refused.fields)) == (StatusCode.INVALID_ARGUMENT, {"page_token"})


def test_a_concurrency_limit_counts_in_total_and_for_each_network() -> None:
    limit = ConcurrencyLimit(3, per_network=2)
    with ExitStack() as stack:
        for peer in ("192.0.2.1", "ipv4:192.0.2.1:4711", "ipv6:[2001:db8::1]:80"):
            if peer.startswith("ipv6"):
                with pytest.raises(TooManyCalls), limit.slot("192.0.2.1"):
                    pass
            stack.enter_context(limit.slot(peer))
        with pytest.raises(TooManyCalls), limit.slot("198.51.100.7"):
            pass
    with limit.slot("192.0.2.1"), limit.slot("192.0.2.1"), limit.slot("198.51.100.7"):
        pass
