"""The sandbox as a process: an HTTP server that executes plans on real sockets, and the process's lifetime.

It is the only file of the sandbox that uses aiohttp, and it makes no decisions.
"""

import asyncio
import contextlib
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from gpuproxy.ports import HttpRequest, HttpResponse
from gpuproxy.sandbox.market.clock import RealTime
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.plan import Plan
from gpuproxy.sandbox.protocol.wire import EVENTS
from gpuproxy.sandbox.server.boot_scripts import BootScripts
from gpuproxy.sandbox.server.listeners import Listeners
from gpuproxy.sandbox.world import Sandbox, build

_TICK = 0.05  # real seconds
_HEARTBEAT = 2.0
_GRACE = 0.5
_PIECE = 7  # bytes of an event stream that are sent together
_RESET = struct.pack("ii", 1, 0)  # linger for no time: close() sends RST


class RunningSandbox:
    """A running server. Use `serve` to create it."""

    def __init__(self, sandbox: Sandbox, listeners: Listeners, runner: web.ServerRunner, port: int) -> None:
        self.sandbox = sandbox
        self.port = port
        self._listeners = listeners
        self._runner = runner
        self._scripts = BootScripts(sandbox, self.url)
        self._ticking = asyncio.create_task(self._tick())

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.sandbox.options.host}:{self.port}"

    async def stop(self) -> None:
        """Stop the server, end the start scripts, save the market and close all ports."""
        self._ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticking
        await self._runner.cleanup()
        await self._scripts.close()
        self._listeners.close()
        self.sandbox.close()

    async def _tick(self) -> None:
        """Run due events regularly and update the ports, also without requests."""
        loop = asyncio.get_running_loop()
        next_heartbeat = loop.time() + _HEARTBEAT
        while True:
            await asyncio.sleep(_TICK)
            if loop.time() >= next_heartbeat:
                next_heartbeat = loop.time() + _HEARTBEAT
                self.sandbox.heartbeat()
            else:
                self.sandbox.tick()
            self._listeners.follow()
            self._scripts.follow()


async def serve(options: SandboxOptions) -> RunningSandbox:
    """Start serving on `options.host` and `options.port`. Raises OSError, ValueError or WrongMarket."""
    listeners = Listeners()
    sandbox = build(options, RealTime(options.time_scale), listeners.port_table)
    listeners.follow()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        plan = sandbox.receive(await _taken(request))
        listeners.follow()
        return await _carried_out(plan, request, sandbox)

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=_GRACE)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    await site.start()
    return RunningSandbox(sandbox, listeners, runner, runner.addresses[0][1])


def run(options: SandboxOptions) -> None:
    """Serve until SIGTERM, SIGINT or, with `exit_with_parent`, the end of stdin. Prints the URL on stdout."""
    asyncio.run(_run(options))


async def _run(options: SandboxOptions) -> None:
    running = await serve(options)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    sys.stdout.write(f"sandbox listening on {running.url}\n")
    sys.stdout.flush()
    async with _parent_watched(stopped.set) if options.exit_with_parent else contextlib.nullcontext():
        await stopped.wait()
        await running.stop()


@contextlib.asynccontextmanager
async def _parent_watched(gone: Callable[[], None]) -> AsyncIterator[None]:
    """Call `gone` when stdin closes. It also closes if the parent process is killed."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )

    async def watch() -> None:
        while await reader.read(1024):
            pass
        gone()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        transport.close()


async def _taken(request: web.BaseRequest) -> HttpRequest:
    body = await request.read()
    return HttpRequest(method=request.method, url=str(request.rel_url), headers=dict(request.headers), body=body)


async def _carried_out(plan: Plan, request: web.BaseRequest, sandbox: Sandbox) -> web.StreamResponse:
    if plan.delay > 0:
        await sandbox.clock.sleep(plan.delay)
    if plan.delivery == "hang":
        await asyncio.sleep(plan.real_seconds)
    if plan.delivery in ("hang", "reset", "refuse") or plan.response is None:
        return _reset(request)
    if plan.delivery == "trickle":
        return await _trickled(plan, request)
    if plan.response.headers.get("content-type") == EVENTS:
        return await _streamed(plan.response, request)
    return web.Response(status=plan.response.status, headers=plan.response.headers, body=plan.response.body)


def _reset(request: web.BaseRequest) -> web.StreamResponse:
    """Break the connection with a RST. The returned response is never sent."""
    transport = request.transport
    if transport is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    return web.Response(status=500)


async def _streamed(response: HttpResponse, request: web.BaseRequest) -> web.StreamResponse:
    """Send events in pieces that end anywhere, as networks cut them."""
    sent = web.StreamResponse(status=response.status, headers=response.headers)
    sent.enable_chunked_encoding()
    await sent.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client is gone
        for position in range(0, len(response.body), _PIECE):
            await sent.write(response.body[position : position + _PIECE])
            await asyncio.sleep(0)
        await sent.write_eof()
    return sent


async def _trickled(plan: Plan, request: web.BaseRequest) -> web.StreamResponse:
    assert plan.response is not None  # noqa: S101 - _carried_out looked
    body = plan.response.body
    sent = web.StreamResponse(status=plan.response.status, headers=plan.response.headers)
    sent.content_length = len(body)
    await sent.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client is gone
        for position in range(len(body)):
            await sent.write(body[position : position + 1])
            await asyncio.sleep(plan.real_seconds)
        await sent.write_eof()
    return sent
