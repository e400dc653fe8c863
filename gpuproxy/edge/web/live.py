"""Live parts of pages: HTML that is rendered every second, and sent as an event when it has changed.

The browser opens a stream only while its page is visible (`dashboard.js`). A stream ends when the session ends, when
its key is revoked, or when the server stops. The event `ended` tells the page to go to the login.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field

from aiohttp import hdrs, web

from gpuproxy.edge.web.sessions import Session
from gpuproxy.model.errors import Refusal, TooManyCalls, Unauthenticated
from gpuproxy.ports import Clock

STEP_SECONDS = 1.0
"""Real seconds between two looks."""
HEARTBEAT_SECONDS = 15.0
WRITE_SECONDS = 30.0
"""Real seconds in which a browser must read what was sent; else its stream ends, and makes room for another."""
_SHARE = 0.9
"""Of a step: so old may a part be that another tab gets too, and no tab falls behind by a whole step."""
MAX_STREAMS = 512
MAX_STREAMS_PER_SESSION = 16
_HEADERS = {hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"}
Fragment = Callable[[], Awaitable[str]]
"""Renders the part. Raises Unauthenticated when the session's credentials are no longer valid."""


class Recent:
    """Parts that were rendered within the last step: many tabs of one project cost as much as one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parts: dict[Hashable, _Part] = {}

    async def text(self, key: Hashable, fragment: Fragment) -> str:
        """The part, at most `STEP_SECONDS` old. `key` names all that it depends on, and who may see it."""
        part = self._parts.get(key)
        if part is None:
            self._drop_old()
            part = self._parts[key] = _Part()
        async with part.turn:
            now = self._now()
            if now >= part.valid_until:
                part.text = await fragment()
                part.valid_until = now + STEP_SECONDS * _SHARE
        return part.text

    def _drop_old(self) -> None:
        now = self._now()
        for key in [key for key, part in self._parts.items() if part.valid_until < now and not part.turn.locked()]:
            del self._parts[key]

    def _now(self) -> float:
        return self._clock.monotonic() / self._clock.scale


@dataclass(slots=True)
class _Part:
    text: str = ""
    valid_until: float = -math.inf
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Streams:
    """The open streams of all dashboards."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = 0
        self._stopping = asyncio.Event()

    async def stop(self) -> None:
        """End all streams, now and later ones."""
        self._stopping.set()

    async def send(self, request: web.Request, session: Session, fragment: Fragment) -> web.StreamResponse:
        """Send the fragment, and send it again each time that it has changed, until the browser goes away."""
        if self._open >= MAX_STREAMS or session.streams >= MAX_STREAMS_PER_SESSION:
            raise TooManyCalls("Too many live pages are open. Close some of them.", retry_after=15)
        self._open += 1
        session.streams += 1
        try:
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request)
            await self._run(response, fragment)
        finally:
            self._open -= 1
            session.streams -= 1
        return response

    async def _run(self, response: web.StreamResponse, fragment: Fragment) -> None:
        before, quiet = "", 0.0
        try:
            while not self._stopping.is_set():
                now = await self._next(fragment, before)
                if now is None:
                    await self._write(response, b"event: ended\ndata: login\n\n")
                    return
                if now != before:
                    await self._write(response, _event(now))
                    before, quiet = now, 0.0
                elif quiet >= HEARTBEAT_SECONDS:
                    await self._write(response, b": still here\n\n")
                    quiet = 0.0
                quiet += STEP_SECONDS
                await self._wait()
        except (ConnectionError, TimeoutError):
            return  # the browser has gone, or does not read

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        """Send it. Raises TimeoutError if the browser does not read it in time, or the server stops meanwhile."""
        writing = asyncio.ensure_future(response.write(data))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((writing, stopping), timeout=WRITE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                raise TimeoutError
            await writing
        finally:
            writing.cancel()
            stopping.cancel()

    async def _next(self, fragment: Fragment, before: str) -> str | None:
        """The part now; None if the session has ended. A failed read keeps what is shown; the next one may succeed."""
        try:
            return await fragment()
        except Unauthenticated:
            return None
        except Refusal:
            return before

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                await self._stopping.wait()
        except TimeoutError:
            return


def _event(text: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"{lines}\n".encode(errors="replace")
