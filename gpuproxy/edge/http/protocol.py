"""Connections whose bytes are not HTTP get the error body that every other error has, and learn nothing of us.

aiohttp's own answer is text that names its version and Python's, and shows its parser's state. It offers no other way
to say it differently than a class of its kind.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import ExitStack

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from gpuproxy.edge.http.answers import HEADERS, Problem, problem_of, refused
from gpuproxy.edge.rpc.admission import Room
from gpuproxy.model.errors import InvalidArgument, Refusal, TooManyCalls, Violation
from gpuproxy.ports import Random

IDLE_SECONDS = 75.0
"""Real seconds for a request's head to arrive, and between two requests of a connection."""
_LINGER_SECONDS = 2.0
_HEAD_BYTES = 8190
_PLAIN = re.compile(r"[A-Za-z/' -]{1,80}", re.ASCII)
"""What a parser says in words, without the bytes that it says it of."""

_SILENT = logging.getLogger(__name__)
_SILENT.setLevel(logging.CRITICAL)
"""What aiohttp says of malformed requests, with tracebacks: anybody could fill the log with them."""


def connections_of(server: web.Server, random: Random, room: Room) -> Callable[[], RequestHandler]:
    """What a listener of asyncio's makes for each connection; one that has no place in `room` is closed."""
    loop = asyncio.get_running_loop()

    def connection() -> RequestHandler:
        made = _Connection(
            server,
            loop=loop,
            logger=_SILENT,
            access_log=None,  # type: ignore[arg-type]  # as aiohttp itself calls it
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_HEAD_BYTES,
            max_field_size=_HEAD_BYTES,
        )
        made.random = random
        made.room = room
        made.places = ExitStack()
        return made

    return connection


class _Connection(RequestHandler):
    __slots__ = ("places", "random", "room")

    random: Random
    room: Room
    places: ExitStack
    """Its place, while it is open."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            self.places.enter_context(self.room.place((transport.get_extra_info("peername") or ("",))[0]))
        except TooManyCalls:
            transport.abort()  # type: ignore[attr-defined]  # of every transport of a socket
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.places.close()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer after which the connection is closed; ConnectionError when another has begun already."""
        if request.writer.output_size > 0:
            raise ConnectionError
        problem = _malformed(exc, message) if status < 500 else problem_of(Refusal("internal error"))
        answer = refused(problem, self.random.token(20))
        complete(answer)
        answer.force_close()
        return answer


def complete(response: web.StreamResponse) -> None:
    """Add what every response carries."""
    response.headers["Server"] = "gpuproxy"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _malformed(exc: BaseException | None, message: str | None) -> Problem:
    said = (message or "").partition("\n")[0].rstrip(": ")
    detail = f": {said}" if _PLAIN.fullmatch(said) else ""
    if isinstance(exc, LineTooLong):
        detail = f": the address and each header may have {_HEAD_BYTES} bytes"
    return problem_of(InvalidArgument([Violation("request", f"is not HTTP as it is read here{detail}")]))
