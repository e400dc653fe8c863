"""The HTTP face: every call of the contract as JSON, through the same dispatcher as gRPC, and a few pages beside it.

A request becomes a Call here and a Reply becomes a response; nothing is decided in between. A client that goes away
cancels its call. What is wrong with a request's bytes is told by the dispatcher too, so that every call is logged and
has a trace id. A caller is known by its headers before its body is read and before it counts. Bodies, headers and
waits are bounded; nothing is read for another origin's scripts (no CORS).
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
from gpuproxy.edge.rpc.admission import Room
from gpuproxy.edge.rpc.auth import named
from gpuproxy.edge.rpc.dispatch import SMALL_BYTES, Call, Dispatcher, introduces
from gpuproxy.edge.rpc.rpcs import MAX_REQUEST_BYTES, Rpc, rpcs_of
from gpuproxy.edge.tls import Certificates
from gpuproxy.model.errors import InvalidArgument, NotBuilt, NotFound, Refusal, Violation
from gpuproxy.ports import Clock, Random

DEFAULT_SECONDS = 120.0
"""The least deadline of a call whose request names none."""
BODY_SECONDS = 20.0
"""Real seconds for a request's body to arrive."""
STRANGERS_BODY_SECONDS = 5.0
"""The same where it is not known yet who sends it."""
MOST_CONNECTIONS = 4096
"""At once, and never more than half of the files that the process may have open; of one network half as many."""
_BACKLOG = 512
_ACCEPTS = 16
"""Connections that asyncio accepts in one go, and complaints of its in one go when there are no files left."""
_HANDSHAKE_SECONDS = 15.0
_STUCK_MS = 60_000
_CEILING = 2000
_METADATA = ("authorization", "x-api-key", "traceparent")
_TIMEOUT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|m|h)?", re.ASCII)
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What answers a path that is no call of the contract."""

log = structlog.get_logger(__name__)


class HttpServer:
    """One server; not started yet. `pages` are further paths, served to everybody who can reach the port."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        service: object,
        *,
        random: Random,
        clock: Clock,
        pages: Mapping[str, Page] | None = None,
        max_concurrent: int = _CEILING,
        drain_seconds: float = 30.0,
    ) -> None:
        self._dispatcher = dispatcher
        self._random = random
        self._clock = clock
        self._calls = Room(max_concurrent)
        self._tags = Tags()
        app = web.Application(client_max_size=MAX_REQUEST_BYTES, middlewares=[self._outermost])
        app.on_response_prepare.append(_complete)
        rpcs = {rpc.name: rpc for rpc in rpcs_of(service)}
        for route in all_routes():
            app.router.add_route(route.verb, route.path, partial(self._call, route, rpcs[route.rpc]))
        for path, page in (pages or {}).items():
            app.router.add_get(path, page)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=drain_seconds)
        self._listening: asyncio.Server | None = None

    async def start(self, host: str, port: int, certificates: Certificates | None = None) -> int:
        """Listen, in plaintext without certificates; the port, which is a free one for 0. OSError: it can't be had."""
        await self._runner.setup()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        # A client that takes nothing of its answer for so long is gone.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MS)
        listener.setblocking(False)
        server = self._runner.server
        assert server is not None  # noqa: S101 - it is set up
        most = min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        connections = connections_of(server, self._random, Room(most, per_network=most // 2))
        context = certificates.context if certificates is not None else None
        self._listening = await asyncio.get_running_loop().create_server(
            connections,
            sock=listener,
            ssl=context,
            backlog=_ACCEPTS,
            ssl_handshake_timeout=None if context is None else _HANDSHAKE_SECONDS,
        )
        listener.listen(_BACKLOG)  # asyncio has made it as short as its own steps
        return int(listener.getsockname()[1])

    async def drain(self) -> None:
        """Take no new requests, give those under way their time, then cancel them."""
        self._dispatcher.end_streams()
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    async def _call(self, route: Route, rpc: Rpc, request: web.Request) -> web.StreamResponse:
        with ExitStack() as places:
            call = self._received(route, rpc, request, places)
            if rpc.streams:
                return await stream(self._dispatcher, call, request, self._clock)
            reply = await self._dispatcher.run(call)
        if reply.refusal is not None:
            return refused(problem_of(reply.refusal), reply.trace_id)
        status = status_of_answer(rpc.name, reply.answer)
        return answered(request, body_of(reply.answer), status=status, trace_id=reply.trace_id, tags=self._tags)

    def _received(self, route: Route, rpc: Rpc, request: web.Request, places: ExitStack) -> Call:
        """The call as far as it is known from its headers; `places` then hold its place until it is answered."""
        seconds = None if rpc.streams else max(DEFAULT_SECONDS, rpc.seconds)
        metadata = named((name, value) for name in _METADATA for value in request.headers.getall(name, ()))
        wrong = None
        try:
            seconds = _seconds(request.headers.get("Request-Timeout"), seconds)
        except InvalidArgument as refusal:
            wrong = refusal

        async def arrive() -> object:
            if wrong is not None:
                raise wrong
            stranger = rpc.role is None or introduces(rpc, metadata)
            if not stranger:
                places.enter_context(self._calls.place(""))
            return request_of(route, await _whole(route, request, stranger=stranger))

        return Call(rpc=rpc, metadata=metadata, seconds_left=seconds, arrive=arrive, peer=request.remote or "")

    @web.middleware
    async def _outermost(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What the router says about an address, in the form of every other error."""
        try:
            return await handler(request)
        except web.HTTPMethodNotAllowed as error:
            allowed = ", ".join(sorted(error.allowed_methods))
            text = f"This address takes {allowed}, not {request.method[:20]}."
            problem = replace(problem_of(NotBuilt(text, reason="METHOD_NOT_ALLOWED")), headers={hdrs.ALLOW: allowed})
        except web.HTTPNotFound:
            problem = problem_of(NotFound("There is nothing at this address; /openapi.json lists what there is."))
        except web.HTTPException as error:
            problem = replace(problem_of(InvalidArgument([Violation("", error.reason)])), code=error.status)
        except Exception:
            log.exception("http_broke", path=request.path)
            problem = problem_of(Refusal("internal error"))
        return refused(problem, self._random.token(20))


async def _complete(_request: web.Request, response: web.StreamResponse) -> None:
    complete(response)


async def _whole(route: Route, request: web.Request, *, stranger: bool) -> Received:
    return Received(
        path=request.match_info,
        query={name: request.query.getall(name) for name in request.query},
        body=await _body(request, stranger=stranger) if route.has_body else b"",
        request_id=request.headers["Idempotency-Key"].strip() if "Idempotency-Key" in request.headers else None,
        resume_token=request.headers.get("Last-Event-ID", "").strip(),
    )


async def _body(request: web.Request, *, stranger: bool) -> bytes:
    """The whole body; raises InvalidArgument when it is too long, too slow, or not as its headers say."""
    most, seconds = MAX_REQUEST_BYTES, BODY_SECONDS
    if stranger:
        most, seconds = SMALL_BYTES, min(BODY_SECONDS, STRANGERS_BODY_SECONDS)
        request = request.clone(client_max_size=most)
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() not in ("", "identity"):
        raise _wrong_body("must not be compressed")
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _wrong_body(f"must be at most {most} bytes") from None
    except TimeoutError:
        raise _wrong_body(f"did not arrive within {seconds:g} s") from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise _wrong_body("is not what its headers say") from None


def _seconds(header: str | None, default: float | None) -> float | None:
    """Of a Request-Timeout header: `30`, `1.5s`, `500ms`, `2m`."""
    if header is None:
        return default
    match = _TIMEOUT.fullmatch(header.strip().lower())
    seconds = float(match.group(1)) * _UNIT_SECONDS[match.group(2) or ""] if match else math.nan
    if not seconds > 0:
        raise InvalidArgument([Violation("Request-Timeout", "must be seconds above 0, as in 30 or 2m")])
    return seconds


def _wrong_body(description: str) -> InvalidArgument:
    return InvalidArgument([Violation("body", description)])
