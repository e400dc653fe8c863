"""Both real servers on loopback over one dispatcher and one service, with a client for each."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from grpc import aio

from gpuproxy.adapters.system import ScaledClock, SystemRandom
from gpuproxy.edge.grpc.server import GrpcServer
from gpuproxy.edge.http.pages import Pages
from gpuproxy.edge.http.server import HttpServer
from gpuproxy.edge.rpc.auth import Authenticator
from gpuproxy.edge.rpc.dispatch import Around, Dispatcher
from gpuproxy.edge.rpc.rpcs import built_of
from gpuproxy.edge.tls import Certificates
from gpuproxy.ports import Clock
from tests.edge.face import SECONDS, Face, all_keys

METRICS = b"# HELP gpuproxy_up Up.\n"


@dataclass
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    def violations(self) -> dict[str, str]:
        """Description by field."""
        bad = next(each for each in self.error["details"] if each["@type"].endswith("BadRequest"))
        return {each["field"]: each["description"] for each in bad["field_violations"]}


@dataclass
class Both:
    """The gRPC interface as in other tests, and the HTTP interface."""

    grpc: Face
    http: HttpServer
    pages: Pages
    checks: dict[str, str]
    session: aiohttp.ClientSession
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def send(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = "gp_user",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request; `body` is sent unchanged if it is bytes, otherwise as JSON."""
        sent = {"Accept-Encoding": "identity"} | dict(headers or {}) | ({"X-API-Key": key} if key else {})
        raw = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        data = None if raw is None else io.BytesIO(raw)
        async with asyncio.timeout(SECONDS):
            async with self.session.request(verb, self.url + path, data=data, headers=sent) as reply:
                return Answer(reply.status, reply.headers, await reply.read())

    async def raw(self, *pieces: bytes, end: bool = False) -> bytes:
        """All bytes of the answer until the server closes the connection. With `end`, the client closes first."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if end:
                writer.write_eof()
            async with asyncio.timeout(SECONDS):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def both_faces(
    service: object,
    *,
    max_concurrent: int = 100,
    certificates: Certificates | None = None,
    clock: ScaledClock | None = None,
    around: Around | None = None,
    mount: Callable[[Dispatcher, Clock], Callable[[web.Application], None]] | None = None,
) -> AsyncIterator[Both]:
    clock, random = clock or ScaledClock(), SystemRandom()
    dispatcher = Dispatcher(Authenticator(all_keys().find, clock), clock, random, around=around)
    checks = {"database": "ok"}

    async def looked() -> Mapping[str, str]:
        return checks

    async def measured(_checks: Mapping[str, str]) -> bytes:
        return METRICS

    pages = Pages(looked, measured, built_of(service))
    grpc = GrpcServer(dispatcher, service)
    http = HttpServer(
        dispatcher,
        service,
        random=random,
        clock=clock,
        pages=pages.routes,
        mount=mount(dispatcher, clock) if mount else None,
        max_concurrent=max_concurrent,
        drain_seconds=0.1,
    )
    grpc_port = await grpc.start("127.0.0.1:0", certificates)
    port = await http.start("127.0.0.1", 0, certificates)
    try:
        async with (
            aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
            aiohttp.ClientSession(auto_decompress=False) as session,
        ):
            face = Face(server=grpc, dispatcher=dispatcher, channel=channel, port=grpc_port, clock=clock)
            yield Both(grpc=face, http=http, pages=pages, checks=checks, session=session, port=port)
    finally:
        await http.drain()
        await grpc.drain(0.1)
