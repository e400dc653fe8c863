"""HTTP connections: their limits, and the answer to bytes that aren't HTTP.

A malformed request gets the same error body as any other error. aiohttp's own answer would show its version, Python's
version and the state of its parser. Subclassing its request handler is the only way to change that answer.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from gpuproxy.edge.http.answers import HEADERS, Problem, problem_of, refused
from gpuproxy.edge.rpc.concurrency import ConcurrencyLimit
from gpuproxy.model.errors import InvalidArgument, Refusal, TooManyCalls, Violation
from gpuproxy.ports import Random

IDLE_SECONDS = 75.0
"""Maximum real seconds until a request's head has arrived, and between two requests of a connection."""
_LINGER_SECONDS = 2.0
_HEAD_BYTES = 8190
_PLAIN = re.compile(r"[A-Za-z/' -]{1,80}", re.ASCII)
"""A parser message that is plain words and quotes nothing of the request."""

_MUTED = logging.getLogger(__name__)
_MUTED.setLevel(logging.CRITICAL)
"""Suppresses aiohttp's tracebacks about malformed requests: anybody could fill the log with them."""


def connections_of(server: web.Server, random: Random, limit: ConcurrencyLimit) -> Callable[[], RequestHandler]:
    """The protocol factory of an asyncio listener. A connection over the limit is closed at once."""
    loop = asyncio.get_running_loop()

    def connection() -> RequestHandler:
        made = _Connection(
            server,
            loop=loop,
            logger=_MUTED,
            access_log=None,  # type: ignore[arg-type]  # aiohttp itself passes None
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
        )
        made.random = random
        made.limit = limit
        made.slot = ExitStack()
        return made

    return connection


class _Connection(RequestHandler):
    __slots__ = ("limit", "random", "slot")

    random: Random
    limit: ConcurrencyLimit
    slot: ExitStack
    """Holds the connection's slot while it is open."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            self.slot.enter_context(self.limit.slot((transport.get_extra_info("peername") or ("",))[0]))
        except TooManyCalls:
            transport.abort()  # type: ignore[attr-defined]  # every socket transport has it
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.slot.close()
        super().connection_lost(exc)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """As in aiohttp, but an unknown Expect header, which aiohttp refuses by itself, gets the usual error body."""
        if isinstance(resp, web.HTTPExpectationFailed):
            problem = problem_of(InvalidArgument([Violation("Expect", "must be 100-continue, or left out")]))
            resp = refused(replace(problem, code=resp.status), self.random.token(20))
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer after which the connection is closed; raises ConnectionError if another answer has begun."""
        if request.writer.output_size > 0:
            raise ConnectionError
        problem = _malformed(exc, message) if status < 500 else problem_of(Refusal("internal error"))
        answer = refused(problem, self.random.token(20))
        complete(answer)
        answer.force_close()
        return answer


def complete(response: web.StreamResponse) -> None:
    """Add the headers of every response."""
    response.headers["Server"] = "gpuproxy"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _malformed(exc: BaseException | None, message: str | None) -> Problem:
    said = (message or "").partition("\n")[0].rstrip(": ")
    detail = f": {said}" if _PLAIN.fullmatch(said) else ""
    if isinstance(exc, LineTooLong):
        detail = f": the address and each header may have at most {_HEAD_BYTES} bytes"
    return problem_of(InvalidArgument([Violation("request", f"is not valid HTTP{detail}")]))
