"""The steps of every call, whichever interface it came through.

The dispatcher authenticates the caller, checks the role, decodes the request, applies the deadline, runs the handler
and logs one line (at debug for a poll). It turns every error into a Refusal: no exception text reaches a client, and
every client gets an answer. Only this module has a blanket `except`.

A request is parsed after its caller is authenticated. The exceptions are the few calls whose request itself contains
the credentials. Those requests must be small, and the number of concurrent ones is limited.
Each interface turns the Reply into its own protocol.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from functools import partial

import structlog
from google.protobuf.message import DecodeError

from gpuproxy.adapters.logs import FrequentEvent
from gpuproxy.edge.rpc.auth import Authenticator, credentials
from gpuproxy.edge.rpc.begun import Begun
from gpuproxy.edge.rpc.concurrency import ConcurrencyLimit
from gpuproxy.edge.rpc.rpcs import EXTRA_READS, POLL, READS, Answer, Rpc, allows
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
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Clock, Random

MAX_SECONDS = 30 * 60.0
"""The longest deadline, in real seconds. A caller's later deadline is shortened to it."""
RECHECK_SECONDS = 3.0
"""Real seconds between two checks of a waiting stream's credentials."""
SMALL_BYTES = 16 * 1024
"""The largest request that is read before its sender is authenticated."""
_TRACE_ID_LENGTH, _TRACE_IDS = 20, 64
_ANONYMOUS_CALLS = 32
_ANONYMOUS_CALLS_PER_NETWORK = 8
_NO_SLOT = nullcontext()
_NOBODY = Caller(project="", role="viewer")

Send = Callable[[Answer], Awaitable[None]]
Observe = Callable[[str, str, float], None]
"""Called once for each call with its name, its status code and its duration in real seconds."""

log = structlog.get_logger(__name__)
_log_call = FrequentEvent(__name__, "rpc_finished")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request as an interface received it."""

    rpc: Rpc
    metadata: Mapping[str, str]
    """Names in lower case."""
    seconds_left: float | None
    """Real seconds until the caller's deadline; None if it set none."""
    raw: bytes = b""
    receive: Callable[[], Awaitable[object]] | None = None
    """Reads and decodes the request; None if the request is in `raw`. Raises a Refusal."""
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer or a refusal, with the trace id that the log lines of the call have."""

    trace_id: str
    answer: Answer = b""
    refusal: Refusal | None = None


Handle = Callable[[Call, object, Caller], Awaitable[Answer]]
Around = Callable[[Call, str, Awaitable[Reply]], Awaitable[Reply]]
"""Wraps each call: gets the call, its trace id and its awaitable reply; awaits and returns that reply."""


def identifies_itself(rpc: Rpc, metadata: Mapping[str, str]) -> bool:
    """True if the request itself contains the credentials, so that it must be read before authentication."""
    return rpc.name == "Login" or (rpc.name == "CreateAPIKey" and not credentials(metadata))


class Dispatcher:
    """Runs calls, and knows which ones are running."""

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
        """Those that run a call now."""
        self._streams: set[asyncio.Timeout] = set()
        self._draining = False
        self._trace_ids: list[str] = []
        """Made many at once, because a read of the system's randomness costs as much as the rest of the dispatcher."""
        self._anonymous_calls = ConcurrencyLimit(_ANONYMOUS_CALLS, per_network=_ANONYMOUS_CALLS_PER_NETWORK)

    async def run(self, call: Call) -> Reply:
        """Run one call. Raises nothing but CancelledError, and that only if the current task is being cancelled."""
        return await self._run(call, self._handled)

    async def stream(self, call: Call, send: Send) -> Reply:
        """Run one streaming call: each answer is passed to `send` at once; the Reply says how the stream ended.

        `send` may wait until the client has read the answer. An error that `send` raises ends the stream.
        """
        return await self._run(call, partial(self._streamed, send))

    async def identify(self, metadata: Mapping[str, str]) -> Caller:
        """The caller with these credentials, without a deadline; raises Unauthenticated."""
        return await self._authenticator.identify(metadata)

    def end_streams(self) -> None:
        """End all streams, now and later ones, with an error that tells the client to open the stream again."""
        self._draining = True
        for guard in self._streams:
            _expire(guard)

    async def _run(self, call: Call, handle: Handle) -> Reply:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        try:
            trace_id = self._trace_id()
            reply = self._reply(call, trace_id, handle)
            return await (reply if self._around is None else self._around(call, trace_id, reply))
        finally:
            if task is not None:
                self._tasks.discard(task)

    async def _reply(self, call: Call, trace_id: str, handle: Handle) -> Reply:
        started = self._clock.monotonic()
        caller = _NOBODY
        structlog.contextvars.bind_contextvars(trace_id=trace_id)
        try:
            try:
                first = identifies_itself(call.rpc, call.metadata)
                with self._anonymous_calls.slot(call.peer) if first else _NO_SLOT:
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
                # Code below cancelled its own work. Without this, grpc would send the client no answer.
                reply = self._internal_error(call, trace_id, error)
            except Exception as error:  # noqa: BLE001 - the last resort: the client gets an answer
                reply = self._internal_error(call, trace_id, error)
            code = "OK" if reply.refusal is None else code_of(reply.refusal).name
            reason = "" if reply.refusal is None else reply.refusal.reason
            self._log(call, caller, started, trace_id=trace_id, code=code, reason=reason)
        finally:
            structlog.contextvars.unbind_contextvars("trace_id")
        return reply

    async def idle(self, seconds: float) -> bool:
        """Wait until no call is running, including `finally` blocks; False if one still runs after `seconds`.

        This is needed because grpc doesn't wait for a handler whose answer is sent, or that it has cancelled.
        """
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=seconds)
        return all(task.done() for task in others)

    def _trace_id(self) -> str:
        if not self._trace_ids:
            letters = self._random.token(_TRACE_ID_LENGTH * _TRACE_IDS)
            starts = range(0, len(letters), _TRACE_ID_LENGTH)
            self._trace_ids = [letters[start : start + _TRACE_ID_LENGTH] for start in starts]
        return self._trace_ids.pop()

    async def _identified(self, call: Call, metadata: Mapping[str, str]) -> Caller:
        if call.rpc.role is None:
            return _NOBODY
        caller = await self._authenticator.identify(metadata)
        if not allows(call.rpc, caller):
            raise PermissionDenied(
                f"{call.rpc.name} requires the role {call.rpc.role}, but your role is {caller.role}.",
                metadata={"needed": str(call.rpc.role), "role": caller.role},
            )
        return caller

    def _in_time(self, call: Call, caller: Caller) -> Caller:
        """The caller with its deadline, counted from the moment when the request has arrived."""
        own = MAX_SECONDS if call.rpc.streams else call.rpc.seconds
        seconds = min(own if call.seconds_left is None else call.seconds_left, MAX_SECONDS)
        return Caller(
            project=caller.project,
            role=caller.role,
            key_id=caller.key_id,
            user_id=caller.user_id,
            peer=call.peer,
            deadline=self._clock.monotonic() + seconds * self._clock.scale,
        )

    async def _handled(self, call: Call, request: object, caller: Caller) -> Answer:
        rpc = call.rpc
        if rpc.handler is None:
            raise _unimplemented(rpc)
        begun = Begun(rpc.handler(request, caller))
        if begun.ended:
            return begun.result
        seconds = (caller.deadline - self._clock.monotonic()) / self._clock.scale
        try:
            async with asyncio.timeout(seconds) as guard:
                return await begun
        except TimeoutError:
            if not guard.expired():
                raise
            raise DeadlineExceeded(f"{rpc.name} did not finish before the deadline.") from None

    async def _streamed(self, send: Send, call: Call, request: object, caller: Caller) -> Answer:
        rpc = call.rpc
        if rpc.streamer is None:
            raise _unimplemented(rpc)
        if self._draining:
            raise _shutting_down()
        seconds = (caller.deadline - self._clock.monotonic()) / self._clock.scale
        guard, watcher = asyncio.timeout(seconds), None
        try:
            async with guard:
                self._streams.add(guard)
                watcher = self._watch_credentials(call, caller, guard)
                async with aclosing(rpc.streamer(request, caller)) as answers:
                    async for answer in answers:
                        await self._recheck(call, caller)
                        await send(answer)
        except TimeoutError:
            if not guard.expired():
                raise
            if watcher is not None and watcher.done():
                watcher.result()
            if self._draining:
                raise _shutting_down() from None
            raise DeadlineExceeded(
                f"{rpc.name} has reached its maximum duration. Open it again with the last resume_token."
            ) from None
        finally:
            self._streams.discard(guard)
            if watcher is not None:
                watcher.cancel()
        return b""

    def _watch_credentials(self, call: Call, caller: Caller, guard: asyncio.Timeout) -> "asyncio.Task[None]":
        """Check a stream's credentials regularly until cancelled; end the stream when they aren't valid any more."""

        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and task.exception() is not None and guard in self._streams:
                _expire(guard)

        async def check() -> None:
            while True:
                await asyncio.sleep(RECHECK_SECONDS)
                await self._recheck(call, caller)

        task = asyncio.create_task(check())
        task.add_done_callback(ended)
        return task

    async def _recheck(self, call: Call, caller: Caller) -> None:
        """Raise Unauthenticated if a stream's credentials aren't valid any more or have other rights now."""
        now = await self._authenticator.identify(call.metadata)
        if (now.project, now.role) != (caller.project, caller.role):
            raise Unauthenticated("The project or role of these credentials has changed. Open the stream again.")

    def _internal_error(self, call: Call, trace_id: str, error: BaseException) -> Reply:
        log.error("rpc_crashed", rpc=call.rpc.name, exc_info=error)
        refusal = Refusal("internal error", reason=Reason.INTERNAL, metadata={"trace_id": trace_id})
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


def _unimplemented(rpc: Rpc) -> NotBuilt:
    return NotBuilt(f"This server does not implement {rpc.name} yet.", metadata={"rpc": rpc.name})


def _log_poll(**fields: str | float) -> None:
    log.debug("rpc_finished", **fields)


def _polls(call: Call) -> bool:
    """True for a read that the client marks as a poll. Calls that change something are always logged at info."""
    name, value = POLL
    return call.metadata.get(name) == value and call.rpc.name in READS | EXTRA_READS


def _shutting_down() -> Unavailable:
    text = "The server is shutting down. Open the stream again with the last resume_token."
    return Unavailable(text, reason=Reason.SHUTTING_DOWN)


def _expire(guard: asyncio.Timeout) -> None:
    if not guard.expired():
        guard.reschedule(asyncio.get_running_loop().time())


async def _request(call: Call, *, small: bool) -> object:
    if call.receive is not None:
        return await call.receive()
    if small and len(call.raw) > SMALL_BYTES:
        raise InvalidArgument([Violation("request", f"must be at most {SMALL_BYTES} bytes")])
    try:
        return call.rpc.decode(call.raw)
    except DecodeError:
        raise InvalidArgument([Violation("request", f"can't be decoded as a request of {call.rpc.name}")]) from None


def _token(call: Call, request: object) -> Mapping[str, str]:
    """The token field of CreateAPIKey as metadata. The published contract has this field; it overrides the metadata."""
    token = getattr(request, "token", "") if call.rpc.name == "CreateAPIKey" else ""
    return {"authorization": f"Bearer {token}"} if token else {}


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
