"""A small HTTP proxy on loopback: CONNECT tunnels and requests in absolute form, with faults on request.

Every name is this machine: `market.test:PORT` is connected at 127.0.0.1:PORT. So a client that resolves the name by
itself fails, and one that uses the proxy does not.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

Fault = Literal["", "closes", "silent", "closes in the tunnel", "breaks after the request", "cuts the answer"]


class HttpProxy:
    """One proxy. `refusal`: the status line that answers every request instead of forwarding it.

    `asked` says whether the server has received a request: only what the server sends after that is its answer.
    """

    def __init__(
        self,
        fault: Fault = "",
        *,
        asked: Callable[[], bool] = lambda: False,
        refusal: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.heads: list[str] = []
        """The heads of the requests that it received."""
        self.port = 0
        self._fault = fault
        self._asked = asked
        self._refusal = refusal
        self._tls = tls
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["HttpProxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for writer in self._open:
                writer.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            if self._fault == "silent":
                await reader.read()
            elif self._refusal:
                writer.write(f"HTTP/1.1 {self._refusal}\r\nContent-Length: 0\r\n\r\n".encode())
            elif self._fault != "closes":
                await self._forward(head, reader, writer)
        writer.close()

    async def _forward(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(" ", 2)
        authority = target if method == "CONNECT" else target.split("/")[2]
        there, sender = await asyncio.open_connection("127.0.0.1", int(authority.rpartition(":")[2]))
        self._open.add(sender)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            if self._fault == "closes in the tunnel":
                return
        else:
            sender.write(head.encode("latin-1"))
        requests = asyncio.ensure_future(_copied(reader, sender))
        try:
            await self._answers(there, writer)
        finally:
            requests.cancel()
            sender.close()

    async def _answers(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65_536):
            if self._asked() and self._fault == "breaks after the request":
                return
            if self._asked() and self._fault == "cuts the answer":
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return
            writer.write(data)
            await writer.drain()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
