"""What happens to every call, whichever face it came through and whatever it is for.

Identify, check the role, decode, keep to the deadline, run the handler, log one line (at debug for a poll); and turn
whatever goes wrong into a Refusal, so that no exception text of ours ever reaches a client and no client is left
without an answer. Of all that a call runs through, only this has a blanket `except`. Nothing that a stranger sent is
parsed, but for the few calls whose request says who is calling: it must be small then, and only so many of them are
under way at once. A face turns the Reply into its own protocol, once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import structlog
from google.protobuf.message import DecodeError

from gpuproxy.adapters.logs import Routine
from gpuproxy.edge.rpc.admission import Room
from gpuproxy.edge.rpc.auth import Authenticator, credentials
from gpuproxy.edge.rpc.rpcs import POLL, READS, Answer, Rpc, allows
from gpuproxy.edge.rpc.status import code_of
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotBuilt,
    PermissionDenied,
    Refusal,
    Unauthenticated,
    Unavailable,
    Violation,
)
from gpuproxy.ports import Clock, Random

MAX_SECONDS = 30 * 60.0
"""The longest deadline of a caller's that is honoured."""
RECHECK_SECONDS = 3.0
"""Real seconds between two looks at the credentials of a stream that waits."""
SMALL_BYTES = 16 * 1024
"""The longest request that is read before it is known who sent it."""
_INTRODUCTIONS = 32
_INTRODUCTIONS_PER_NETWORK = 8
_NOBODY = Caller(project="", role="viewer")

Send = Callable[[Answer], Awaitable[None]]
Observe = Callable[[str, str, float], None]
"""Told of every call: its name, its code, the real seconds that it took."""

log = structlog.get_logger(__name__)
_log_call = Routine(__name__, "rpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as a face received it."""

    rpc: Rpc
    metadata: Mapping[str, str]
    """Names in lower case."""
    seconds_left: float | None
    """Real seconds until the caller's deadline; None where it set none."""
    raw: bytes = b""
    arrive: Callable[[], Awaitable[object]] | None = None
    """Reads and decodes the request, where `raw` is not it; raises a Refusal."""
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer or a refusal, and the id under which the log has it."""

    trace_id: str
    answer: Answer = b""
    refusal: Refusal | None = None


Handle = Callable[[Call, object, Caller], Awaitable[Answer]]
Around = Callable[[Call, str, Awaitable[Reply]], Awaitable[Reply]]
"""Given every call, the id under which the log has it, and its reply to wait for, which it hands on."""


def introduces(rpc: Rpc, metadata: Mapping[str, str]) -> bool:
    """True when the request itself says who is calling, and has to be read before that is known."""
    return rpc.name == "Login" or (rpc.name == "CreateAPIKey" and not credentials(metadata))


class Dispatcher:
    """Runs calls, and knows which are under way."""

    def __init__(
        self,
        authenticator: Authenticator,
        clock: Clock,
        random: Random,
        observe: Observe | None = None,
        around: Around | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._random = random
        self._observe = observe
        self._around = around
        self._tasks: set[asyncio.Task[object]] = set()
        self._streams: set[asyncio.Timeout] = set()
        self._draining = False
        self._introductions = Room(_INTRODUCTIONS, per_network=_INTRODUCTIONS_PER_NETWORK)

    async def run(self, call: Call) -> Reply:
        """Never raises but CancelledError, and that only when the calling task itself is being cancelled."""
        return await self._run(call, self._handled)

    async def stream(self, call: Call, send: Send) -> Reply:
        """As run, but each answer goes to `send` as it comes; the Reply says how the stream ended.

        `send` may take as long as the client takes to read, and what it raises ends the stream.
        """
        return await self._run(call, partial(self._streamed, send))

    def end_streams(self) -> None:
        """End every stream, and each that still comes, in a way that tells the client to open it again elsewhere."""
        self._draining = True
        for guard in self._streams:
            _expire(guard)

    async def _run(self, call: Call, handle: Handle) -> Reply:
        self._track()
        trace_id = self._random.token(20)
        reply = self._reply(call, trace_id, handle)
        return await (reply if self._around is None else self._around(call, trace_id, reply))

    async def _reply(self, call: Call, trace_id: str, handle: Handle) -> Reply:
        started = self._clock.monotonic()
        caller = _NOBODY
        with structlog.contextvars.bound_contextvars(trace_id=trace_id):
            try:
                first = introduces(call.rpc, call.metadata)
                with self._introductions.place(call.peer) if first else nullcontext():
                    if not first:
                        caller = await self._identified(call, call.metadata)
                    request = await _request(call, small=first or call.rpc.role is None)
                    if first or _token(call, request):
                        caller = await self._identified(call, _token(call, request) or call.metadata)
                    answer = await handle(call, request, self._in_time(call, caller))
                reply = Reply(trace_id=trace_id, answer=answer)
            except Refusal as refusal:
                reply = Reply(trace_id=trace_id, refusal=refusal)
            except asyncio.CancelledError as error:
                if _being_cancelled():
                    self._log(call, caller, started, trace_id=trace_id, code="CANCELLED")
                    raise
                # Something below cancelled its own work: grpc would leave the client without any answer.
                reply = self._broken(call, trace_id, error)
            except Exception as error:  # noqa: BLE001 - the last line: whatever it is, the client gets an answer
                reply = self._broken(call, trace_id, error)
            code = "OK" if reply.refusal is None else code_of(reply.refusal).name
            reason = "" if reply.refusal is None else reply.refusal.reason
            self._log(call, caller, started, trace_id=trace_id, code=code, reason=reason)
        return reply

    async def idle(self, seconds: float) -> bool:
        """Wait until no call is under way, its `finally` blocks included; False when some still is after so long.

        grpc does not wait for a handler whose answer is already sent, nor for one that it has cancelled.
        """
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=seconds)
        return all(task.done() for task in others)

    def _track(self) -> None:
        task = asyncio.current_task()
        if task is not None and task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _identified(self, call: Call, metadata: Mapping[str, str]) -> Caller:
        if call.rpc.role is None:
            return _NOBODY
        caller = await self._authenticator.identify(metadata)
        if not allows(call.rpc, caller):
            raise PermissionDenied(
                f"{call.rpc.name} needs the role {call.rpc.role}; this caller's role is {caller.role}.",
                metadata={"needed": str(call.rpc.role), "role": caller.role},
            )
        return caller

    def _in_time(self, call: Call, caller: Caller) -> Caller:
        """The caller with its deadline, which counts from the moment that the request is there."""
        own = MAX_SECONDS if call.rpc.streams else call.rpc.seconds
        seconds = min(own if call.seconds_left is None else call.seconds_left, MAX_SECONDS)
        return replace(caller, deadline=self._clock.monotonic() + seconds * self._clock.scale, peer=call.peer)

    async def _handled(self, call: Call, request: object, caller: Caller) -> Answer:
        rpc = call.rpc
        if rpc.handler is None:
            raise _not_built(rpc)
        seconds = (caller.deadline - self._clock.monotonic()) / self._clock.scale
        try:
            async with asyncio.timeout(seconds) as guard:
                return await rpc.handler(request, caller)
        except TimeoutError:
            if not guard.expired():
                raise
            raise DeadlineExceeded(f"{rpc.name} did not come to an end within the deadline.") from None

    async def _streamed(self, send: Send, call: Call, request: object, caller: Caller) -> Answer:
        rpc = call.rpc
        if rpc.streamer is None:
            raise _not_built(rpc)
        if self._draining:
            raise _shutting_down()
        seconds = (caller.deadline - self._clock.monotonic()) / self._clock.scale
        guard, looking = asyncio.timeout(seconds), None
        try:
            async with guard:
                self._streams.add(guard)
                looking = self._looking(call, caller, guard)
                async with aclosing(rpc.streamer(request, caller)) as answers:
                    async for answer in answers:
                        await self._same(call, caller)
                        await send(answer)
        except TimeoutError:
            if not guard.expired():
                raise
            if looking is not None and looking.done():
                looking.result()
            if self._draining:
                raise _shutting_down() from None
            raise DeadlineExceeded(f"{rpc.name} has run for as long as it may; go on with the last token.") from None
        finally:
            self._streams.discard(guard)
            if looking is not None:
                looking.cancel()
        return b""

    def _looking(self, call: Call, caller: Caller, guard: asyncio.Timeout) -> "asyncio.Task[None]":
        """Looks at a stream's credentials until cancelled; what it finds wrong ends the stream."""

        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and task.exception() is not None and guard in self._streams:
                _expire(guard)

        async def look() -> None:
            while True:
                await asyncio.sleep(RECHECK_SECONDS)
                await self._same(call, caller)

        task = asyncio.create_task(look())
        task.add_done_callback(ended)
        return task

    async def _same(self, call: Call, caller: Caller) -> None:
        """Raises Unauthenticated when a stream's credentials are not good any more, or are somebody else's now."""
        now = await self._authenticator.identify(call.metadata)
        if (now.project, now.role) != (caller.project, caller.role):
            raise Unauthenticated("What these credentials allow has changed; open the stream again.")

    def _broken(self, call: Call, trace_id: str, error: BaseException) -> Reply:
        log.error("rpc_broke", rpc=call.rpc.name, exc_info=error)
        refusal = Refusal("internal error", reason="INTERNAL", metadata={"trace_id": trace_id})
        return Reply(trace_id=trace_id, refusal=refusal)

    def _log(self, call: Call, caller: Caller, started: float, *, trace_id: str, code: str, reason: str = "") -> None:
        seconds = (self._clock.monotonic() - started) / self._clock.scale
        if self._observe is not None:
            self._observe(call.rpc.name, code, seconds)
        line = _log_poll if code == "OK" and _polls(call) else _log_call
        line(
            code=code,
            key=caller.key_id,
            ms=round(seconds * 1000, 1),
            peer=call.peer,
            project=caller.project,
            reason=reason,
            rpc=call.rpc.name,
            trace_id=trace_id,
            user=caller.user_id,
        )


def _not_built(rpc: Rpc) -> NotBuilt:
    return NotBuilt(f"{rpc.name} is part of the contract but not of this server yet.", metadata={"rpc": rpc.name})


def _log_poll(**fields: str | float) -> None:
    log.debug("rpc", **fields)


def _polls(call: Call) -> bool:
    """Only a read may be marked so: whatever changes something is in the log."""
    name, value = POLL
    return call.metadata.get(name) == value and call.rpc.name in READS


def _shutting_down() -> Unavailable:
    text = "The server is shutting down; open the stream again, with the last token."
    return Unavailable(text, reason="SHUTTING_DOWN")


def _expire(guard: asyncio.Timeout) -> None:
    if not guard.expired():
        guard.reschedule(asyncio.get_running_loop().time())


async def _request(call: Call, *, small: bool) -> object:
    if call.arrive is not None:
        return await call.arrive()
    if small and len(call.raw) > SMALL_BYTES:
        raise InvalidArgument([Violation("", f"a request of {call.rpc.name} must be at most {SMALL_BYTES} bytes")])
    try:
        return call.rpc.decode(call.raw)
    except DecodeError:
        raise InvalidArgument([Violation("", f"the request is not a message of {call.rpc.name}")]) from None


def _token(call: Call, request: object) -> Mapping[str, str]:
    """CreateAPIKey was published with the token as a field: it counts as metadata, and before it."""
    token = getattr(request, "token", "") if call.rpc.name == "CreateAPIKey" else ""
    return {"authorization": f"Bearer {token}"} if token else {}


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
