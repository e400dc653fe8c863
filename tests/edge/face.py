"""A real gRPC server and a real channel on loopback, for any service object of a test."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from gpuproxy.adapters.system import ScaledClock, SystemRandom
from gpuproxy.edge.grpc.server import GrpcServer
from gpuproxy.edge.rpc.auth import Authenticator
from gpuproxy.edge.rpc.dispatch import Dispatcher
from gpuproxy.edge.rpc.rpcs import CONTRACT, Rpc
from gpuproxy.model.users import Role
from gpuproxy.store.keys import KeyRow

V1 = "gpuproxy.v1.GPUProxyService"
PUBLISHED = "gpuproxy.GPUProxyService"
KEYS: dict[str, Role] = {"gp_user": "user", "gp_viewer": "viewer", "gp_admin": "admin"}
SECONDS = 120.0


def key_row(key: str, role: Role, *, project: str = "p1") -> KeyRow:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return KeyRow(
        id=f"id-{role}",
        project=project,
        name=role,
        role=role,
        prefix=key[:8],
        sha256=digest,
        created_at=datetime(2026, 6, 12, tzinfo=UTC),
    )


@dataclass
class KeyBook:
    """Keys by hash; counts look-ups."""

    rows: dict[str, KeyRow] = field(default_factory=dict)
    lookups: int = 0

    async def find(self, sha256: str) -> KeyRow | None:
        self.lookups += 1
        return self.rows.get(sha256)


def all_keys() -> KeyBook:
    rows = [key_row(key, role) for key, role in KEYS.items()]
    return KeyBook({row.sha256: row for row in rows})


@dataclass
class Face:
    """The server, its channel, and a way to call any RPC of the contract by name."""

    server: GrpcServer
    dispatcher: Dispatcher
    channel: aio.Channel
    port: int
    clock: ScaledClock

    def call(
        self,
        name: str,
        request: Message | None = None,
        *,
        key: str = "gp_user",
        service: str = V1,
        timeout: float | None = SECONDS,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        method = CONTRACT.methods_by_name[name]
        request = request if request is not None else GetMessageClass(method.input_type)()
        kind = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        multi = kind(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        sent = {"x-api-key": key} if metadata is None else metadata
        return multi(request, metadata=tuple(sent.items()), timeout=timeout)

    async def refused(self, name: str, request: Message | None = None, **how: Any) -> "Refused":
        try:
            async with asyncio.timeout(SECONDS):
                await self.call(name, request, **how)
        except aio.AioRpcError as error:
            return Refused(error)
        raise AssertionError(f"{name} was not refused")


class Refused:
    """An error as a client reads it."""

    def __init__(self, error: aio.AioRpcError) -> None:
        self.code = error.code()
        self.text = error.details() or ""
        self.trailers = dict(error.trailing_metadata() or ())
        self._status = rpc_status.from_call(error)

    def detail(self, kind: Any) -> Any:
        for packed in self._status.details if self._status else ():
            if packed.Is(kind.DESCRIPTOR):
                found = kind()
                packed.Unpack(found)
                return found
        return None

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        return self.detail(error_details_pb2.ErrorInfo)

    @property
    def fields(self) -> dict[str, str]:
        bad = self.detail(error_details_pb2.BadRequest)
        return {v.field: v.description for v in bad.field_violations} if bad else {}

    @property
    def size(self) -> int:
        return sum(len(name) + len(value) for name, value in self.trailers.items())


@asynccontextmanager
async def facing(
    service: object, *, keys: KeyBook | None = None, extra: Mapping[str, Rpc] | None = None, scale: float = 1.0
) -> AsyncIterator[Face]:
    clock = ScaledClock(scale)
    dispatcher = Dispatcher(Authenticator((keys or all_keys()).find, clock), clock, SystemRandom())
    server = GrpcServer(dispatcher, service, extra=extra)
    port = await server.start("127.0.0.1:0")
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Face(server=server, dispatcher=dispatcher, channel=channel, port=port, clock=clock)
    finally:
        await server.drain(0.1)
