"""The Http port over aiohttp: each request is sent at most once, and errors say whether it may have been executed.

The rule: before a connection exists, an error is HttpNotSent. After that, everything but a complete answer is
HttpReplyLost. Each request has its own connection: a kept-alive one may be dead, and then it is unknown whether a
request that was written to it has been executed. Nothing is retried, redirected or cached.
Through a proxy, the connection of an https request exists when the TLS handshake with the server has ended: what fails
before, also an answer of the proxy to CONNECT, is HttpNotSent. For http, it exists when the proxy is connected.
Answers are decompressed in a thread, so that large ones don't block the event loop.

While our own event loop does not run, an answer can arrive that nobody reads. So a read (GET) whose timeout ends gets
this time added. A call with effects never gets more time, because its deadline is stored in the database.
"""

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from gpuproxy.adapters.proxies import DIRECT, Proxies, Proxy
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse

_MAX_CONNECTIONS = 256
_CHUNK_BYTES = 65_536
"""Maximum bytes of one step of decompression, for input and for output."""
_MAX_MEMBERS = 1_000
"""Maximum members of one gzip body. Servers send one or a few."""
_PLAIN = frozenset({"", "identity"})
_GZIP = frozenset({"gzip", "x-gzip"})


@dataclass(slots=True)
class _Progress:
    """The progress of one request."""

    connected: bool = False


class _Broken(Exception):
    """A connection broke, to the server or to a proxy."""


class AioHttp:
    """The HTTP client. Create and close it in the same running event loop."""

    def __init__(
        self,
        late: Callable[[], float] = lambda: 0.0,
        *,
        proxies: Proxies = DIRECT,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`late` returns the total lateness of the event loop so far, in real seconds.

        `tls`: for https instead of the default, which trusts the system's CAs.
        """
        self._late = late
        self._proxies = proxies
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=_MAX_CONNECTIONS, ssl=tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "gpuproxy", "Accept-Encoding": "gzip"},
            auto_decompress=False,  # it would block the event loop
            # No aiohttp timeouts: aiohttp rounds long ones up to whole seconds. `send` has its own.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            middlewares=(_send_once,),
            trace_configs=[_connection_trace()],
        )

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request and return the response, whatever its status.

        Raises HttpNotSent if no byte was sent, and HttpReplyLost if the request may have been executed.
        """
        progress, proxy = _Progress(), self._proxies.for_url(request.url)
        try:
            async with self._deadline(request):
                return await self._exchange(request, progress, proxy)
        except TimeoutError:
            raise _failure(progress, f"no complete answer within {request.timeout:g} s") from None
        except aiohttp.ClientHttpProxyError as error:  # its own text has words of the proxy's
            place = proxy.place if proxy else ""
            raise _failure(progress, f"the proxy {place} refused the connection with status {error.status}") from None
        except _Broken as error:
            raise _failure(progress, f"the connection broke: {error}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(progress, f"{type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def _deadline(self, request: HttpRequest) -> AsyncIterator[None]:
        """Apply the timeout. A read is extended once by the lateness of the loop, at most by its own timeout."""
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
        """Close all connections."""
        await self._session.close()

    async def _exchange(self, request: HttpRequest, progress: _Progress, proxy: Proxy | None) -> HttpResponse:
        login = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        tunnelled = request.url.lower().startswith("https:")  # then the login is for CONNECT only, not for the server
        async with self._session.request(
            request.method,
            request.url,
            headers=request.headers if tunnelled else {**request.headers, **login},
            data=request.body,
            allow_redirects=False,
            proxy=proxy.url if proxy else None,
            proxy_headers=login if tunnelled and proxy else None,
            trace_request_ctx=progress,
        ) as response:
            body = await _read(response, request.max_bytes)
            encoding = ",".join(response.headers.getall("Content-Encoding", [])).strip().lower()
            if body and encoding not in _PLAIN:
                body = await asyncio.to_thread(_decompressed, body, encoding, request.max_bytes)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return HttpResponse(status=response.status, headers=headers, body=body)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body as it was sent. Its size is checked while it arrives."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            response.close()
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _decompressed(compressed: bytes, encoding: str, max_bytes: int) -> bytes:
    """The decompressed body. Its size is checked at each step, so that a small answer can't fill the memory."""
    chunks: list[bytes] = []
    size = 0
    try:
        for chunk in _decompressed_chunks(compressed, encoding):
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except zlib.error as error:
        raise HttpReplyLost(f"the answer is not valid {encoding}: {error}") from error
    return b"".join(chunks)


def _decompressed_chunks(compressed: bytes, encoding: str) -> Iterator[bytes]:
    """The decompressed data in chunks. Raises HttpReplyLost if the data is truncated or followed by other bytes."""
    several = encoding in _GZIP
    decompressor = _decompressor(compressed, encoding)
    members = 1
    for start in range(0, len(compressed), _CHUNK_BYTES):
        rest = compressed[start : start + _CHUNK_BYTES]
        while rest:
            if decompressor.eof:
                members += 1
                if not several or members > _MAX_MEMBERS:
                    raise HttpReplyLost(f"the answer has more bytes after its {encoding} data")
                decompressor = _decompressor(compressed, encoding)
            yield decompressor.decompress(rest, _CHUNK_BYTES)
            rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
    while not decompressor.eof:
        if not (chunk := decompressor.decompress(b"", _CHUNK_BYTES)):
            raise HttpReplyLost("the answer is truncated")
        yield chunk


def _decompressor(compressed: bytes, encoding: str) -> "zlib._Decompress":
    if encoding in _GZIP:
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    if encoding == "deflate":  # with zlib's header by the standard; some servers omit it
        return zlib.decompressobj(zlib.MAX_WBITS if compressed[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS)
    raise HttpReplyLost(f"the answer has the encoding {encoding[:40]!r}, which was not requested")


def _too_large(max_bytes: int) -> HttpReplyLost:
    return HttpReplyLost(f"the answer has more than {max_bytes} bytes")


async def _send_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Turn broken connections into _Broken, so that the aiohttp session doesn't retry.

    The session retries GET, PUT and DELETE when a connection breaks before the answer, even a new connection. It does
    so only for the exceptions that are converted here, in the innermost middleware. A connection to a proxy can break
    before the request was sent, so `send` decides what it means.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Broken(str(error)) from error


def _connection_trace() -> aiohttp.TraceConfig:
    async def connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connected = True

    watch = aiohttp.TraceConfig()
    watch.on_connection_create_end.append(connected)
    watch.on_connection_reuseconn.append(connected)
    return watch


def _failure(progress: _Progress, message: str) -> HttpNotSent | HttpReplyLost:
    return HttpReplyLost(message) if progress.connected else HttpNotSent(message)
