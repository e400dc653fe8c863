"""The gRPC interface: the contract under both its names, health checks and reflection, on one asyncio server.

Requests and answers are passed as bytes. The dispatcher decodes requests, so that an undecodable one gets a proper
error. Answers that are already encoded aren't parsed again. `abort` is called in exactly one place. All grpc.aio
objects belong to the event loop in which `start` runs.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from gpuproxy.edge.grpc.reflection import add_reflection
from gpuproxy.edge.rpc.auth import merged_metadata
from gpuproxy.edge.rpc.dispatch import Call, Dispatcher
from gpuproxy.edge.rpc.rpcs import CONTRACT, MAX_REQUEST_BYTES, Answer, Ready, Rpc, rpcs_of
from gpuproxy.edge.rpc.status import status_of
from gpuproxy.edge.tls import Certificates
from gpuproxy.model.errors import FailedPrecondition, Refusal, Unavailable
from gpuproxy.model.reasons import Reason
from gpuproxy.v1 import published_pb2

PUBLISHED = published_pb2.DESCRIPTOR.services_by_name["GPUProxyService"]
NAMES: tuple[str, ...] = (CONTRACT.full_name, PUBLISHED.full_name)
TRACE_ID = "x-trace-id"
_PUSHBACK = "grpc-retry-pushback-ms"
_MAX_PUSHBACK_SECONDS = 15.0

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""The largest answer that a client with default settings accepts."""
_CEILING = 2000
"""Concurrent calls. It is a last resort, since it also refuses health checks."""
_MINUTE_MS = 60_000
_LAST_WRITE_SECONDS = 5.0
"""Real seconds. A client that does not read keeps a write from its end."""
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on the port fails instead of getting half the connections
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_concurrent_streams", 1000),
    ("grpc.max_connection_idle_ms", 15 * _MINUTE_MS),
    # The server's own pings: a connection whose client has disappeared, and with it its streams, ends after 80 s.
    ("grpc.keepalive_time_ms", _MINUTE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Pings of clients, also without calls. gRPC's default ends the connection, and so every call, of a client that
    # pings more often than once in five minutes: GOAWAY, too_many_pings. Many clients ping every 10 s.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),  # no limit
)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

_Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
RawHandler = Callable[[bytes], Coroutine[Any, Any, bytes]]


class GrpcServer:
    """One gRPC server. It is created stopped; `start` starts it, and `serving(True)` makes it SERVING."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        service: object,
        *,
        extra: Mapping[str, Rpc] | None = None,
        max_concurrent_rpcs: int = _CEILING,
    ) -> None:
        """`extra` are calls outside the contract, by full name ("pkg.Service/Method"), for benchmarks."""
        self._max_concurrent_rpcs = max_concurrent_rpcs
        self._dispatcher = dispatcher
        self._rpcs = rpcs_of(service)
        self._extra = dict(extra or {})
        self._health = health.aio.HealthServicer()
        self._server: aio.Server | None = None

    async def start(self, address: str, certificates: Certificates | None = None) -> int:
        """Listen on `host:port`, in plaintext if there are no certificates. Port 0 chooses a free port.

        Returns the port. Raises RuntimeError if the port is in use.
        """
        server = aio.server(options=_OPTIONS, maximum_concurrent_rpcs=self._max_concurrent_rpcs)
        server.add_generic_rpc_handlers(self._handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        add_reflection(server, (*NAMES, _HEALTH))
        await self.serving(False)
        if certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, certificates.credentials())
        await server.start()
        self._server = server
        return int(port)

    async def serving(self, ready: bool) -> None:
        """Set what grpc.health.v1 answers for the whole server and for each service."""
        word = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *NAMES):
            await self._health.set(name, word)

    async def drain(self, grace: float) -> bool:
        """Report NOT_SERVING, accept no new calls, wait `grace` real seconds for running calls, then cancel them.

        Returns True when every handler has finished, or False if one still runs after another `grace` seconds.
        """
        await self._health.enter_graceful_shutdown()
        self._dispatcher.end_streams()
        if self._server is not None:
            await self._server.stop(grace)
        return await self._dispatcher.idle(grace)

    def _handlers(self) -> Sequence[grpc.GenericRpcHandler]:
        methods = {rpc.name: self._method(rpc) for rpc in self._rpcs}
        handlers = [grpc.method_handlers_generic_handler(name, methods) for name in NAMES]
        for full_name, rpc in self._extra.items():
            service, _, method = full_name.partition("/")
            handlers.append(grpc.method_handlers_generic_handler(service, {method: self._method(rpc)}))
        return handlers

    def _method(self, rpc: Rpc) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def one(raw: bytes, context: _Context) -> bytes:
            return await self._answer(rpc, raw, context)

        async def many(raw: bytes, context: _Context) -> None:
            await self._stream(rpc, raw, context)

        handler: grpc.RpcMethodHandler[bytes, bytes]
        if rpc.streams:
            handler = grpc.unary_stream_rpc_method_handler(many)
        else:
            handler = grpc.unary_unary_rpc_method_handler(one)
        return handler

    async def _stream(self, rpc: Rpc, raw: bytes, context: _Context) -> None:
        async def send(answer: Answer) -> None:
            await _finished(asyncio.ensure_future(context.write(_wire(answer))))

        reply = await self._dispatcher.stream(_call(rpc, raw, context), send)
        if reply.refusal is not None:
            await _refuse(reply.refusal, reply.trace_id, context)
        context.set_trailing_metadata(((TRACE_ID, reply.trace_id),))

    async def _answer(self, rpc: Rpc, raw: bytes, context: _Context) -> bytes:
        reply = await self._dispatcher.run(_call(rpc, raw, context))
        refusal, body = reply.refusal, b""
        if refusal is None:
            body = _wire(reply.answer)
            if len(body) > MAX_ANSWER_BYTES:
                refusal = FailedPrecondition(
                    "The answer is too large to send. Request smaller pages.", reason=Reason.ANSWER_TOO_LARGE
                )
        if refusal is not None:
            await _refuse(refusal, reply.trace_id, context)
        context.set_trailing_metadata(((TRACE_ID, reply.trace_id),))
        return body


def raw_rpc(name: str, handler: RawHandler) -> Rpc:
    """A call whose request and answer are plain bytes, for benchmarks. It uses the same dispatcher."""
    return Rpc(name=name, decode=bytes, handler=lambda raw, _caller: handler(raw), role="viewer")


def _call(rpc: Rpc, raw: bytes, context: _Context) -> Call:
    return Call(
        rpc=rpc,
        raw=raw,
        metadata=_text(context.invocation_metadata() or ()),
        seconds_left=context.time_remaining(),
        peer=context.peer(),
    )


async def _finished(write: "asyncio.Future[None]") -> None:
    """Wait for a write. If the stream is ended meanwhile, the write gets a moment to finish.

    While a message is being sent, gRPC refuses to send a status, and the client would wait for ever.
    """
    try:
        await asyncio.shield(write)
    except asyncio.CancelledError:
        write.add_done_callback(lambda write: write.cancelled() or write.exception())  # nobody else asks for it
        await asyncio.wait([write], timeout=_LAST_WRITE_SECONDS)
        write.cancel()
        raise


async def _refuse(refusal: Refusal, trace_id: str, context: _Context) -> None:
    """End the call with the refusal. Raises grpc's AbortError."""
    status = rpc_status.to_status(status_of(refusal))
    trailers = (*status.trailing_metadata, (TRACE_ID, trace_id), *_pushback(refusal, context.time_remaining()))
    await context.abort(status.code, status.details, trailers)


def _pushback(refusal: Refusal, seconds_left: float | None) -> tuple[tuple[str, str], ...]:
    """The trailer that tells gRPC clients when to retry: in some milliseconds, or never (-1).

    It is -1 if the retry would come after the deadline, so that the caller gets the error now.
    """
    if not isinstance(refusal, Unavailable):
        return ()
    limit = _MAX_PUSHBACK_SECONDS if seconds_left is None else min(seconds_left, _MAX_PUSHBACK_SECONDS)
    if refusal.retry_after >= limit:
        return ((_PUSHBACK, "-1"),)
    return (
        (_PUSHBACK, str(max(1, round(refusal.retry_after * 1000)))),
    )  # at 0, gRPC's C core hangs until the deadline


def _wire(answer: Answer) -> bytes:
    if isinstance(answer, Ready):
        return answer.wire
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _text(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    return merged_metadata([pair for pair in metadata if isinstance(pair[1], str)])  # type: ignore[misc]
