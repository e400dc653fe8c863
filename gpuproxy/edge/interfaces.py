"""Both interfaces, gRPC and HTTP, on one dispatcher and one service. They become ready and drain together."""

import asyncio
from dataclasses import dataclass

from gpuproxy.edge.grpc.server import GrpcServer
from gpuproxy.edge.http.pages import Pages
from gpuproxy.edge.http.server import HttpServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Interfaces:
    """The gRPC server, the HTTP server and the HTTP pages."""

    grpc: GrpcServer
    http: HttpServer
    pages: Pages

    async def serving(self, ready: bool) -> None:
        """Set what grpc.health.v1 and /readyz answer."""
        self.pages.serving = ready
        await self.grpc.serving(ready)

    async def drain(self, grace: float) -> bool:
        """Report not ready, accept no new calls, wait `grace` real seconds for running calls, then cancel them.

        Returns True when every gRPC handler has finished.
        """
        self.pages.serving = False
        whole, _ = await asyncio.gather(self.grpc.drain(grace), self.http.drain())
        return whole
