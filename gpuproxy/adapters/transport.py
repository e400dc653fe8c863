"""The Http port over aiohttp: one request goes out once, and what can't be known about it is said.

Answers are unpacked in a thread, so that a large one, or a small one that unpacks to a large one, stalls nobody.
The rule: HttpNotSent only while no connection exists; from there on everything that is not a whole answer is
HttpReplyLost. Every request has a connection of its own, because a kept-alive one may be dead already, and then nobody
can tell whether a request that was written to it has been executed. Nothing is ever repeated, redirected or cached.

A read (GET) whose deadline passes gets back the time in which our own event loop did not run: its answer may have
arrived already. A call with effects never does, because the database holds its deadline.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse

_MAX_CONNECTIONS = 256
_PIECE = 65_536
"""Bytes that go into the decompressor, and come out of it, at a time."""
_MOST_MEMBERS = 1_000
"""Of one gzip body; servers send one, or a few."""
_PLAIN = frozenset({"", "identity"})
_GZIP = frozenset({"gzip", "x-gzip"})


@dataclass(slots=True)
class _Progress:
    """How far one request has come."""

    connected: bool = False


class AioHttp:
    """Make it inside a running loop, close it there."""

    def __init__(self, late: Callable[[], float] = lambda: 0.0) -> None:
        """`late`: for how many real seconds in all the loop has been late so far."""
        self._late = late
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=_MAX_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "gpuproxy", "Accept-Encoding": "gzip"},
            auto_decompress=False,  # it would be done on the loop
            # Deadlines are ours: aiohttp rounds long ones up to whole seconds.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            middlewares=(_send_once,),
            trace_configs=[_connection_watch()],
        )

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Any status is a response. HttpNotSent: surely no byte left; HttpReplyLost: it may have been executed."""
        progress = _Progress()
        try:
            async with self._deadline(request):
                return await self._exchange(request, progress)
        except TimeoutError:
            raise _failure(progress, f"no whole answer within {request.timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(progress, f"{type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def _deadline(self, request: HttpRequest) -> AsyncIterator[None]:
        """The request's timeout; a read gets the lateness of the loop on top, once, at most as much again."""
        loop = asyncio.get_running_loop()
        late = self._late()

        def due() -> None:
            more = self._late() - late if request.method == "GET" else 0.0
            limit.reschedule(loop.time() + min(more, request.timeout))

        async with asyncio.timeout(None) as limit:
            timer = loop.call_later(request.timeout, due)
            try:
                yield
            finally:
                timer.cancel()

    async def close(self) -> None:
        """Drop every connection."""
        await self._session.close()

    async def _exchange(self, request: HttpRequest, progress: _Progress) -> HttpResponse:
        async with self._session.request(
            request.method,
            request.url,
            headers=request.headers,
            data=request.body,
            allow_redirects=False,
            trace_request_ctx=progress,
        ) as response:
            body = await _read(response, request.max_bytes)
            encoding = ",".join(response.headers.getall("Content-Encoding", [])).strip().lower()
            if body and encoding not in _PLAIN:
                body = await asyncio.to_thread(_unpacked, body, encoding, request.max_bytes)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return HttpResponse(status=response.status, headers=headers, body=body)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body as it was sent; it is counted while it comes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            response.close()
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _unpacked(packed: bytes, encoding: str, max_bytes: int) -> bytes:
    """The decoded body, counted while it is unpacked: a small answer can't fill the memory."""
    pieces: list[bytes] = []
    size = 0
    try:
        for piece in _pieces(packed, encoding):
            size += len(piece)
            if size > max_bytes:
                raise _too_large(max_bytes)
            pieces.append(piece)
    except zlib.error as error:
        raise HttpReplyLost(f"the answer is no {encoding}: {error}") from error
    return b"".join(pieces)


def _pieces(packed: bytes, encoding: str) -> Iterator[bytes]:
    """What is unpacked, little by little. Raises HttpReplyLost for what is cut short or followed by something else."""
    several = encoding in _GZIP
    unpacker = _unpacker(packed, encoding)
    members = 1
    for start in range(0, len(packed), _PIECE):
        rest = packed[start : start + _PIECE]
        while rest:
            if unpacker.eof:
                members += 1
                if not several or members > _MOST_MEMBERS:
                    raise HttpReplyLost(f"the answer goes on after the end of its {encoding} data")
                unpacker = _unpacker(packed, encoding)
            yield unpacker.decompress(rest, _PIECE)
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    while not unpacker.eof:
        if not (piece := unpacker.decompress(b"", _PIECE)):
            raise HttpReplyLost("the answer was cut short")
        yield piece


def _unpacker(packed: bytes, encoding: str) -> "zlib._Decompress":
    if encoding in _GZIP:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    if encoding == "deflate":  # with the header of zlib, as it should be; some servers leave it out
        return zlib.decompressobj(zlib.MAX_WBITS if packed[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS)
    raise HttpReplyLost(f"the answer is packed as {encoding[:40]!r}, which was not asked for")


def _too_large(max_bytes: int) -> HttpReplyLost:
    return HttpReplyLost(f"an answer of more than {max_bytes} bytes")


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Hide broken connections from the session.

    It repeats GET, PUT and DELETE by itself when a connection breaks before the answer, even a fresh one; it does so
    on these classes only, and here is the innermost place where they can be turned into another.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise HttpReplyLost(f"the connection broke: {error}") from error


def _connection_watch() -> aiohttp.TraceConfig:
    async def connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connected = True

    watch = aiohttp.TraceConfig()
    watch.on_connection_create_end.append(connected)
    watch.on_connection_reuseconn.append(connected)
    return watch


def _failure(progress: _Progress, message: str) -> HttpNotSent | HttpReplyLost:
    return HttpReplyLost(message) if progress.connected else HttpNotSent(message)
