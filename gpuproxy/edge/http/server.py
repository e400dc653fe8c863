"""The HTTP interface: every call of the contract as JSON, through the same dispatcher as gRPC, and a few pages.

This module turns a request into a Call and a Reply into a response; it makes no decisions. A client that disconnects
cancels its call. Errors in a request's bytes go through the dispatcher too, so that every call is logged and has a
trace id. Callers are authenticated by their headers before the body is read and before they count against the limit.
The sizes of bodies and headers are limited, and every wait has a timeout. CORS is off: scripts of other origins can't
read answers.
"""

import asyncio
import math
import re
import resource
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import structlog
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from gpuproxy.edge.http.answers import Tags, answered, body_of, problem_of, refused
from gpuproxy.edge.http.events import stream
from gpuproxy.edge.http.protocol import complete, connections_of
from gpuproxy.edge.http.routes import Received, Route, all_routes, request_of, status_of_answer
from gpuproxy.edge.rpc.auth import merged_metadata
from gpuproxy.edge.rpc.concurrency import ConcurrencyLimit
from gpuproxy.edge.rpc.dispatch import SMALL_BYTES, Call, Dispatcher, identifies_itself
from gpuproxy.edge.rpc.rpcs import MAX_REQUEST_BYTES, Rpc, rpcs_of
from gpuproxy.edge.tls import Certificates
from gpuproxy.model.errors import InvalidArgument, NotBuilt, NotFound, Refusal, Violation
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Clock, Random

DEFAULT_SECONDS = 120.0
"""The minimum deadline in seconds of a call whose request has none."""
BODY_SECONDS = 20.0
"""Maximum real seconds until a request's body has arrived."""
ANONYMOUS_BODY_SECONDS = 5.0
"""The same before the sender is authenticated."""
MAX_CONNECTIONS = 4096
"""Concurrent connections, and at most half of the process's open file limit; half of that from one network."""
_BACKLOG = 512
_ACCEPTS = 16
"""Connections that asyncio accepts in one step. It also logs that many errors per step if no file is left."""
_HANDSHAKE_SECONDS = 15.0
_STUCK_MS = 60_000
_CEILING = 2000
_METADATA = ("authorization", "x-api-key", "traceparent")
_TIMEOUT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h)?", re.ASCII)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Handles a path that isn't a call of the contract."""

log = structlog.get_logger(__name__)


class HttpServer:
    """One HTTP server, created stopped. `pages` are additional paths that need no credentials.

    `mount` adds further routes, which check credentials themselves.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        service: object,
        *,
        random: Random,
        clock: Clock,
        pages: Mapping[str, Page] | None = None,
        mount: Callable[[web.Application], None] | None = None,
        max_concurrent: int = _CEILING,
        drain_seconds: float = 30.0,
    ) -> None:
        self._dispatcher = dispatcher
        self._random = random
        self._clock = clock
        self._calls = ConcurrencyLimit(max_concurrent)
        self._tags = Tags()
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[self._outermost])
        app.on_response_prepare.append(_complete)
        rpcs = {rpc.name: rpc for rpc in rpcs_of(service)}
        for route in all_routes():
            app.router.add_route(route.verb, route.path, partial(self._call, route, rpcs[route.rpc]))
        for path, page in (pages or {}).items():
            app.router.add_get(path, page)
        if mount is not None:
            mount(app)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=drain_seconds)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int, certificates: Certificates | None = None) -> int:
        """Listen, in plaintext if there are no certificates. Port 0 chooses a free port.

        Returns the port. Raises OSError if the address or port can't be used.
        """
        await self._runner.setup()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # A client that reads nothing of its answer for so long is considered gone.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MS)
        listener.setblocking(False)
        server = self._runner.server
        assert server is not None  # noqa: S101 - setup() has created it
        limit = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        connections = connections_of(server, self._random, ConcurrencyLimit(limit, per_network=limit // 2))
        context = certificates.context if certificates is not None else None
        self._listening = await asyncio.get_running_loop().create_server(
            connections,
            sock=listener,
            ssl=context,
            backlog=_ACCEPTS,
            ssl_handshake_timeout=None if context is None else _HANDSHAKE_SECONDS,
        )
        listener.listen(_BACKLOG)  # create_server has reduced the queue to its own backlog
        return int(listener.getsockname()[1])

    async def drain(self) -> None:
        """Accept no new requests, wait up to `drain_seconds` for running ones, then cancel them."""
        self._dispatcher.end_streams()
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    async def _call(self, route: Route, rpc: Rpc, request: web.Request) -> web.StreamResponse:
        with ExitStack() as slot:
            call = self._received(route, rpc, request, slot)
            if rpc.streams:
                return await stream(self._dispatcher, call, request, self._clock)
            reply = await self._dispatcher.run(call)
        if reply.refusal is not None:
            return refused(problem_of(reply.refusal), reply.trace_id)
        status = status_of_answer(rpc.name, reply.answer)
        return answered(request, body_of(reply.answer), status=status, trace_id=reply.trace_id, tags=self._tags)

    def _received(self, route: Route, rpc: Rpc, request: web.Request, slot: ExitStack) -> Call:
        """The call as its headers describe it. Later, `slot` holds its concurrency slot until it is answered."""
        seconds = None if rpc.streams else max(DEFAULT_SECONDS, rpc.seconds)
        metadata = merged_metadata((name, value) for name in _METADATA for value in request.headers.getall(name, ()))
        wrong = None
        try:
            seconds = _seconds(_single(request, "Request-Timeout"), seconds)
        except InvalidArgument as refusal:
            wrong = refusal

        async def receive() -> object:
            if wrong is not None:
                raise wrong
            anonymous = rpc.role is None or identifies_itself(rpc, metadata)
            if not anonymous:
                slot.enter_context(self._calls.slot(""))
            return request_of(route, await _whole(route, request, anonymous=anonymous))

        return Call(rpc=rpc, metadata=metadata, seconds_left=seconds, receive=receive, peer=request.remote or "")

    @web.middleware
    async def _outermost(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Turn the router's errors about a path or verb into the usual error body."""
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            text = f"This path accepts {allowed}, not {request.method[:20]}."
            problem = replace(
                problem_of(NotBuilt(text, reason=Reason.METHOD_NOT_ALLOWED)), headers={hdrs.ALLOW: allowed}
            )
        except web.HTTPNotFound:
            problem = problem_of(NotFound("This path does not exist. /openapi.json lists all paths."))
        except web.HTTPException as error:
            problem = replace(problem_of(InvalidArgument([Violation("request", error.reason)])), code=error.status)
        except Exception:
            log.exception("http_request_crashed", path=request.path)
            problem = problem_of(Refusal("internal error"))
        return refused(problem, self._random.token(20))


async def _complete(_request: web.Request, response: web.StreamResponse) -> None:
    complete(response)


async def _whole(route: Route, request: web.Request, *, anonymous: bool) -> Received:
    request_id, last_event = _single(request, "Idempotency-Key"), _single(request, "Last-Event-ID")
    return Received(
        path=request.match_info,
        query={name: request.query.getall(name) for name in request.query},
        body=await _body(request, anonymous=anonymous) if route.has_body else b"",
        request_id=None if request_id is None else request_id.strip(),
        resume_token=(last_event or "").strip(),
    )


def _single(request: web.Request, name: str) -> str | None:
    """The value of a header; raises InvalidArgument if it is given more than once: the server doesn't guess."""
    values = request.headers.getall(name, ())
    if len(values) > 1:
        raise InvalidArgument([Violation(name, "is given more than once")])
    return values[0] if values else None


async def _body(request: web.Request, *, anonymous: bool) -> bytes:
    """The whole body; raises InvalidArgument if it is too long, too slow, or doesn't match its headers."""
    limit, seconds = MAX_REQUEST_BYTES, BODY_SECONDS
    if anonymous:
        limit, seconds = SMALL_BYTES, min(BODY_SECONDS, ANONYMOUS_BODY_SECONDS)
        request = request.clone(client_max_size=limit)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() not in ("", "identity"):
        raise _wrong_body("must not be compressed")
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _wrong_body(f"must be at most {limit} bytes") from None
    except TimeoutError:
        raise _wrong_body(f"did not arrive within {seconds:g} s") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise _wrong_body("does not match its headers") from None


def _seconds(header: str | None, default: float | None) -> float | None:
    """The seconds of a Request-Timeout header, such as `30`, `1.5s`, `500ms` or `2m`."""
    if header is None:
        return default
    match = _TIMEOUT.fullmatch(header.strip().lower())
    seconds = float(match.group(1)) * _UNIT_SECONDS[match.group(2) or ""] if match else math.nan
    if not seconds > 0:
        raise InvalidArgument([Violation("Request-Timeout", "must be a positive duration such as 30 (seconds) or 2m")])
    return seconds


def _wrong_body(description: str) -> InvalidArgument:
    return InvalidArgument([Violation("body", description)])
