"""TCP forwarders on loopback: what lies between two processes and may be cut, stalled or pointed elsewhere.

All forwarders run on one event loop in a thread of its own. The methods may be called from any thread.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

Sniff = Callable[[int, bool, bytes], None]
"""Called with the number of the connection, whether the data comes from the client, and the data."""
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHUNK = 1 << 16


class Network:
    """The event loop of the forwarders."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def forwarder(self, target: int, sniff: Sniff | None = None) -> "Forwarder":
        """A new forwarder to a port on loopback."""
        forwarder = Forwarder(self, target, sniff)
        forwarder.port = self.run(forwarder.listen())
        return forwarder

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Forwarder:
    """One port that leads to another one."""

    port: int

    def __init__(self, network: Network, target: int, sniff: Sniff | None) -> None:
        self._network = network
        self._target = target
        self._sniff = sniff
        self._open: set[asyncio.StreamWriter] = set()
        self._accepts = True
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._count = 0

    async def listen(self) -> int:
        """Open the port; on the loop."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_CHUNK)
        return int(server.sockets[0].getsockname()[1])

    def point_to(self, target: int) -> None:
        """Lead new connections to another port, and cut the present ones."""

        async def point() -> None:
            self._target = target
            self._accepts = True
            self._cut()

        self._network.run(point())

    def cut(self, *, refuse: bool = False) -> None:
        """Cut all connections. `refuse`: accept no new ones until `point_to`."""

        async def cut() -> None:
            self._accepts = not refuse
            self._cut()

        self._network.run(cut())

    def stall(self) -> None:
        """Forward nothing until `flow`. Connections stay open."""
        self._network.run(self._set(flowing=False))

    def flow(self) -> None:
        """Forward again."""
        self._network.run(self._set(flowing=True))

    async def _set(self, *, flowing: bool) -> None:
        if flowing:
            self._flowing.set()
        else:
            self._flowing.clear()

    def _cut(self) -> None:
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        number = self._count
        if not self._accepts:
            writer.transport.abort()
            return
        try:
            there, to = await asyncio.open_connection("127.0.0.1", self._target, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        with suppress(asyncio.CancelledError):  # the network ends
            await self._forward(number, (reader, writer), (there, to))

    async def _forward(self, number: int, client: Ends, server: Ends) -> None:
        (reader, writer), (there, to) = client, server
        self._open |= {writer, to}
        try:
            await asyncio.gather(self._pump(number, reader, to, True), self._pump(number, there, writer, False))
        finally:
            self._open -= {writer, to}
            writer.transport.abort()
            to.transport.abort()

    async def _pump(self, number: int, here: asyncio.StreamReader, there: asyncio.StreamWriter, out: bool) -> None:
        try:
            while data := await here.read(_CHUNK):
                await self._flowing.wait()
                if self._sniff is not None:
                    self._sniff(number, out, data)
                there.write(data)
                await there.drain()
            there.write_eof()
        except OSError:  # one end was reset, so the other one is, too
            there.transport.abort()
