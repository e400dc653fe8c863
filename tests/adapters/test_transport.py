"""The Http port on real sockets: what is sent, how often, and what each kind of failure means."""

import asyncio
import gzip
import random
import socket
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from gpuproxy.adapters import transport
from gpuproxy.adapters.transport import AioHttp
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest
from tests.adapters.raw_server import OK, Answer, Server, closes, resets, says, stays_silent


@asynccontextmanager
async def client_of(*answers: Answer) -> AsyncIterator[tuple[AioHttp, Server]]:
    http = AioHttp()
    try:
        async with Server(*answers).running() as server:
            yield http, server
    finally:
        await http.close()


def put(url: str, **more: float) -> HttpRequest:
    return HttpRequest(method="PUT", url=url, body=b'{"a":1}', **more)  # type: ignore[arg-type]


async def test_a_response_has_status_lower_case_headers_and_body() -> None:
    async with client_of(says(b"HTTP/1.1 418 No\r\nContent-Length: 3\r\nRetry-AFTER: 7\r\n\r\nabc")) as (http, server):
        response = await http.send(HttpRequest(method="GET", url=server.url, headers={"Authorization": "Bearer k"}))
    assert (response.status, response.headers["retry-after"], response.body) == (418, "7", b"abc")
    assert b"authorization: bearer k" in server.requests[0].lower()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("breaks", [resets, closes])
async def test_a_request_that_breaks_on_a_used_connection_is_never_sent_again(method: str, breaks: Answer) -> None:
    async with client_of(says(OK), breaks, says(OK)) as (http, server):
        await http.send(HttpRequest(method="GET", url=server.url))
        with pytest.raises(HttpReplyLost):
            await http.send(HttpRequest(method=method, url=server.url, body=b"x"))
    assert len(server.requests) == 2


async def test_a_plain_session_would_have_sent_it_again() -> None:
    async with (
        Server(says(OK), resets, says(OK)).running() as server,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(2):
            async with session.put(server.url, data=b"x") as response:
                await response.read()
    assert len(server.requests) == 3


async def test_after_a_refused_connection_the_request_is_not_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        http = AioHttp()
        with pytest.raises(HttpNotSent):
            await http.send(put(f"http://127.0.0.1:{unused.getsockname()[1]}/"))
        await http.close()


@pytest.mark.parametrize("url", ["not a url", "http://127.0.0.1:99999/"])
async def test_a_request_to_an_unknown_address_is_not_sent(url: str) -> None:
    http = AioHttp()
    with pytest.raises(HttpNotSent):
        await http.send(put(url))
    await http.close()


@pytest.mark.parametrize("closes_at_once", [True, False])
async def test_after_a_failed_or_endless_tls_handshake_the_request_is_not_sent(closes_at_once: bool) -> None:
    hold = asyncio.Event()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not closes_at_once:
            await hold.wait()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    http = AioHttp()
    with pytest.raises(HttpNotSent):
        await http.send(put(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout=0.1))
    hold.set()
    await http.close()
    server.close()
    await server.wait_closed()


async def trickles(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
    await writer.drain()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(resets, id="reset before the answer"),
        pytest.param(closes, id="closed before the answer"),
        pytest.param(stays_silent, id="no answer"),
        pytest.param(trickles, id="an answer that never ends"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", then_close=True), id="truncated"),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", then_close=True), id="half a chunk"
        ),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nContent-Le", then_close=True), id="half the headers"),
        pytest.param(says(b"what is this\r\n\r\n", then_close=True), id="not HTTP"),
        pytest.param(
            says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk"), id="not gzip"
        ),
    ],
)
async def test_every_failure_after_the_connection_is_a_lost_reply(fault: Answer) -> None:
    async with client_of(fault) as (http, server):
        with pytest.raises(HttpReplyLost):
            await http.send(put(server.url, timeout=0.2))
    assert len(server.requests) == 1


class Late:
    """A loop that was late for an hour by the time somebody asks for the second time, which is at the deadline."""

    def __init__(self) -> None:
        self.asked = 0
        self.deadline_passed = asyncio.Event()

    def __call__(self) -> float:
        self.asked += 1
        if self.asked == 1:
            return 0.0
        self.deadline_passed.set()
        return 3600.0


async def test_a_read_gets_back_the_time_in_which_our_own_loop_was_late() -> None:
    late = Late()

    async def answers_after_the_deadline(writer: asyncio.StreamWriter) -> None:
        await late.deadline_passed.wait()
        await says(OK)(writer)

    async with Server(answers_after_the_deadline).running() as server:
        http = AioHttp(late)
        response = await http.send(HttpRequest(method="GET", url=server.url, timeout=2.0))
        await http.close()
    assert (response.status, len(server.requests)) == (200, 1)


async def test_a_read_of_a_server_that_stays_silent_ends_although_the_loop_was_late() -> None:
    late = Late()
    async with Server(stays_silent).running() as server:
        http = AioHttp(late)
        with pytest.raises(HttpReplyLost):
            await http.send(HttpRequest(method="GET", url=server.url, timeout=0.2))
        await http.close()
    assert late.asked == 2


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_call_with_effects_keeps_its_deadline_however_late_the_loop_was(method: str) -> None:
    async with Server(stays_silent).running() as server:
        http = AioHttp(late := Late())
        with pytest.raises(HttpReplyLost):
            await http.send(HttpRequest(method=method, url=server.url, timeout=0.2))
        await http.close()
    assert not late.deadline_passed.is_set()


async def test_an_answer_over_the_size_limit_is_a_lost_reply() -> None:
    async with client_of(says(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world")) as (http, server):
        with pytest.raises(HttpReplyLost, match="more than 10 bytes"):
            await http.send(put(server.url, max_bytes=10))
        assert (await http.send(put(server.url, max_bytes=11))).body == b"hello world"


async def test_the_size_limit_counts_decompressed_bytes() -> None:
    packed = gzip.compress(bytes(8_000_000))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    async with client_of(says(head + packed)) as (http, server):
        with pytest.raises(HttpReplyLost, match="more than 1000000 bytes"):
            await http.send(put(server.url, max_bytes=1_000_000))
        assert len((await http.send(put(server.url, max_bytes=8_000_000))).body) == 8_000_000


def packed_as(encoding: str, body: bytes) -> Answer:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return says(head + body)


def bare_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


TEXT = random.Random(7).randbytes(200_000) + bytes(300_000)
GZIP = gzip.compress(TEXT)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", GZIP),
        ("GZIP", GZIP),
        ("x-gzip", GZIP),
        ("gzip", gzip.compress(TEXT[:100_000]) + gzip.compress(TEXT[100_000:])),
        ("gzip", b"".join(gzip.compress(TEXT[at : at + 5000]) for at in range(0, len(TEXT), 5000))),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare_deflate(TEXT)),
        ("identity", TEXT),
    ],
)
async def test_a_compressed_answer_is_decompressed_completely(encoding: str, body: bytes) -> None:
    async with client_of(packed_as(encoding, body)) as (http, server):
        assert (await http.send(put(server.url))).body == TEXT
    assert b"accept-encoding: gzip\r\n" in server.requests[0].lower()


async def test_an_empty_answer_may_be_marked_as_compressed() -> None:
    async with client_of(packed_as("gzip", b"")) as (http, server):
        assert (await http.send(put(server.url))).body == b""


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("gzip", GZIP[:-1], id="cut short in the checksum"),
        pytest.param("gzip", GZIP[:1000], id="cut short in the data"),
        pytest.param("gzip", GZIP[:5], id="cut short in the header"),
        pytest.param("gzip", GZIP + GZIP[:1000], id="a second member cut short"),
        pytest.param("gzip", GZIP + b"more", id="followed by something else"),
        pytest.param("gzip", GZIP[:-8] + bytes(8), id="a wrong checksum"),
        pytest.param("gzip", gzip.compress(b"") * 2000, id="members without end"),
        pytest.param("deflate", zlib.compress(TEXT)[:-1], id="deflate cut short"),
        pytest.param("deflate", zlib.compress(TEXT) + b"more", id="deflate followed by something else"),
        pytest.param("deflate", b"junk", id="not deflate"),
        pytest.param("br", b"junk", id="not asked for"),
        pytest.param("gzip, gzip", gzip.compress(GZIP), id="packed twice"),
    ],
)
async def test_an_incomplete_compressed_answer_is_a_lost_reply(encoding: str, body: bytes) -> None:
    async with client_of(packed_as(encoding, body)) as (http, server):
        with pytest.raises(HttpReplyLost):
            await http.send(put(server.url))
    assert len(server.requests) == 1


class Unpacking:
    """Counts the decompressed bytes and records the threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: set[int] = set()
        self.sizes: list[int] = []
        pieces = transport._decompressed_chunks

        def watched(packed: bytes, encoding: str) -> Iterator[bytes]:
            for piece in pieces(packed, encoding):
                self.threads.add(threading.get_ident())
                self.sizes.append(len(piece))
                yield piece

        monkeypatch.setattr(transport, "_decompressed_chunks", watched)


async def test_an_answer_is_decompressed_in_small_chunks_and_never_on_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unpacking = Unpacking(monkeypatch)
    async with client_of(packed_as("gzip", GZIP)) as (http, server):
        await http.send(put(server.url))
    assert sum(unpacking.sizes) == len(TEXT)
    assert max(unpacking.sizes) <= 65_536
    assert threading.get_ident() not in unpacking.threads


async def test_a_decompression_bomb_is_refused_as_soon_as_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacking = Unpacking(monkeypatch)
    async with client_of(packed_as("gzip", gzip.compress(bytes(50_000_000)))) as (http, server):
        with pytest.raises(HttpReplyLost, match="more than 1000000 bytes"):
            await http.send(put(server.url, max_bytes=1_000_000))
    assert sum(unpacking.sizes) <= 1_000_000 + 65_536
    assert threading.get_ident() not in unpacking.threads


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    moved = b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"
    async with client_of(says(moved)) as (http, server):
        response = await http.send(put(server.url))
    assert response.status == 307
    assert len(server.requests) == 1


async def test_cookies_are_not_kept() -> None:
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1\r\nContent-Length: 0\r\n\r\n"
    async with client_of(says(cookie)) as (http, server):
        await http.send(put(server.url))
        await http.send(put(server.url))
    assert b"cookie" not in server.requests[1].lower()
