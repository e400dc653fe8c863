"""Malformed bytes: nothing breaks, nothing leaks, nothing is rented, and other clients are served."""

import asyncio
import contextlib
import json
import re

import pytest

from tests.edge.engine import StubEngine, service_over
from tests.edge.http_face import Both, both_faces

pytestmark = pytest.mark.long

BODY = json.dumps({"count": 1}).encode()
HEAD = b"POST /api/v1/gpu/instances/reserve HTTP/1.1\r\nHost: x\r\nX-API-Key: gp_user\r\n"
CLOSE = b"Connection: close\r\n"
LEAKS = (b"Traceback", b"gpuproxy/", b".py", b"asyncio", b"site-packages", b"aiohttp", b"Python", b"aaaa")


def request(body: bytes = BODY, *headers: bytes) -> bytes:
    return HEAD + b"".join(headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def still_serves(both: Both) -> bool:
    return (await both.send("GET", "/api/v1/loadbalancer/strategy")).status == 200


ATTACKS = {
    "a body shorter than its length": HEAD + b"Content-Length: 500\r\n\r\n" + BODY,
    "a chunk that never comes": HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\n" + BODY,
    "a chunk of a wrong size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 12\r\nContent-Length: 13\r\n\r\n" + BODY,
    "a length and chunks": HEAD + b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length that is no number": HEAD + b"Content-Length: -1\r\n\r\n" + BODY,
    "a huge length": HEAD + CLOSE + b"Content-Length: 99999999999999\r\n\r\n" + BODY,
    "a header without end": HEAD + b"X: " + b"a" * 100_000,
    "a thousand headers": HEAD + b"X: a\r\n" * 1000 + b"\r\n",
    "a header with a NUL": HEAD + b"X: a\0b\r\n\r\n",
    "a folded header": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an address without end": b"GET /" + b"a" * 100_000,
    "an address with a line break": b"GET /api/v1/%0d%0aX:1 HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n",
    "an address that climbs": b"GET /api/v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n",
    "bad escapes": b"GET /api/v1/gpu/instances?min_vram=%ff%zz HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n",
    "a key of bytes": b"GET /api/v1/keys HTTP/1.1\r\nHost: x\r\nX-API-Key: \xff\xfe\r\n" + CLOSE + b"\r\n",
    "compressed": request(b"\x1f\x8b\x08\x00", CLOSE, b"Content-Encoding: gzip\r\n"),
    "a bomb by its name": request(b"x" * 100, CLOSE, b"Content-Encoding: br\r\n"),
    "upgrade": request(b"{", CLOSE, b"Upgrade: websocket\r\n"),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("end", [True, False], ids=["left", "waited for"])
async def test_malformed_requests_break_nothing_leak_nothing_and_rent_nothing(
    monkeypatch: pytest.MonkeyPatch, attack: bytes, end: bool
) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.server.BODY_SECONDS", 0.2)
    monkeypatch.setattr("gpuproxy.edge.http.protocol.IDLE_SECONDS", 0.4)
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        answer = await both.raw(attack, end=end)
        assert await still_serves(both)
    assert not engine.demands
    assert not any(leak in answer for leak in LEAKS)
    assert end or b"Server: gpuproxy\r\n" in answer
    assert end or json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] in (400, 401, 404)
    assert b" 200 " not in answer
    assert b" 201 " not in answer
    assert b" 500 " not in answer


async def test_the_same_request_in_one_piece_is_answered() -> None:
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        answer = await both.raw(request(BODY, CLOSE))
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert len(engine.demands) == 1


@pytest.mark.parametrize("at", range(0, len(request()), 23))
async def test_a_truncated_request_rents_nothing(at: int) -> None:
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        await both.raw(request()[:at], end=True)
    assert not engine.demands


async def test_pipelined_requests_are_answered_each_and_in_order() -> None:
    engine = StubEngine()
    wrong = request(b'{"count": 0, "bogus": 1}')
    async with both_faces(service_over(engine)) as both:
        answer = await both.raw(request() + wrong + request(BODY, CLOSE))
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"201", b"400", b"201"]
    assert len(engine.demands) == 2


async def test_a_request_that_trickles_in_is_read() -> None:
    engine = StubEngine()
    whole = request(BODY, CLOSE)
    async with both_faces(service_over(engine)) as both:
        answer = await both.raw(*(whole[at : at + 7] for at in range(0, len(whole), 7)))
    assert answer.startswith(b"HTTP/1.1 201 ")


async def test_a_body_that_does_not_arrive_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.server.BODY_SECONDS", 0.05)
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        answer = await both.raw(HEAD + CLOSE + b"Content-Length: 500\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"did not arrive within" in answer
    assert not engine.demands


async def test_a_connection_whose_head_never_ends_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.protocol.IDLE_SECONDS", 1.0)
    async with both_faces(service_over(StubEngine())) as both:
        reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
        writer.write(b"GET /api/v1/keys HTTP/1.1\r\nHost: x\r\nX: ")
        async with asyncio.timeout(120):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "next"])
async def test_a_connection_whose_head_trickles_in_forever_is_closed(
    monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.protocol.IDLE_SECONDS", 1.0)
    async with both_faces(service_over(StubEngine())) as both:
        reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
        writer.write(first + b"GET /api/v1/keys HTTP/1.1\r\nHost: x\r\nX: ")
        ended = asyncio.create_task(reader.read())
        async with asyncio.timeout(120):
            while not (await asyncio.wait([ended], timeout=0.02))[0]:
                writer.write(b"a")
        with contextlib.suppress(ConnectionError):
            assert (await ended).count(b"HTTP/1.1") == bool(first)
        writer.close()


async def test_a_body_that_trickles_in_forever_is_refused_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.server.BODY_SECONDS", 0.1)
    engine = StubEngine()
    async with both_faces(service_over(engine)) as both:
        reader, writer = await asyncio.open_connection("127.0.0.1", both.port)
        writer.write(HEAD + CLOSE + b"Content-Length: 500000\r\n\r\n")
        status = asyncio.create_task(reader.readline())
        async with asyncio.timeout(120):
            while not (await asyncio.wait([status], timeout=0.02))[0]:
                writer.write(b" ")
        assert (await status).startswith(b"HTTP/1.1 400 ")
        writer.close()
    assert not engine.demands


@pytest.mark.parametrize(
    ("piece", "times", "served"),
    [
        (b"X: a\r\n", 50, True),
        (b"X: a\r\n", 2000, False),
        (b"X: " + b"a" * 4000 + b"\r\n", 2, True),
        (b"X: " + b"a" * 9000 + b"\r\n", 1, False),
    ],
)
async def test_headers_are_limited_in_length_and_number(piece: bytes, times: int, served: bool) -> None:
    async with both_faces(service_over(StubEngine())) as both:
        answer = await both.raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + CLOSE + piece * times + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 " if served else b"HTTP/1.0 400 ")


@pytest.mark.parametrize(("length", "status"), [(1024 * 1024, b"201"), (1024 * 1024 + 1, b"400")])
async def test_bodies_are_limited_with_and_without_a_content_length(length: int, status: bytes) -> None:
    body = BODY + b" " * (length - len(BODY))
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % length + body + b"\r\n0\r\n\r\n"
    async with both_faces(service_over(StubEngine())) as both:
        assert (await both.raw(request(body, CLOSE))).startswith(b"HTTP/1.1 " + status)
        assert (await both.raw(HEAD + CLOSE + chunked)).startswith(b"HTTP/1.1 " + status)


async def test_many_silent_connections_do_not_block_other_clients() -> None:
    async with both_faces(service_over(StubEngine())) as both:
        silent = [await asyncio.open_connection("127.0.0.1", both.port) for _ in range(200)]
        assert await still_serves(both)
        for _, writer in silent:
            writer.close()
