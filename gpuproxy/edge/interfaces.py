"""Both faces over one dispatcher and one service: they start, say that they are ready, and drain together."""

import asyncio
from dataclasses import dataclass

from gpuproxy.edge.grpc.server import GrpcServer
from gpuproxy.edge.http.pages import Pages
from gpuproxy.edge.http.server import HttpServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Faces:
    """gRPC and HTTP."""

    grpc: GrpcServer
    http: HttpServer
    pages: Pages

    async def serving(self, ready: bool) -> None:
        """What grpc.health.v1 and /readyz answer."""
        self.pages.serving = ready
        await self.grpc.serving(ready)

    async def drain(self, grace: float) -> bool:
        """Say that it ends, take no new calls, give those under way `grace` real seconds, then cancel them."""
        self.pages.serving = False
        whole, _ = await asyncio.gather(self.grpc.drain(grace), self.http.drain())
        return whole
