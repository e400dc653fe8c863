"""The real server over twenty thousand offers, with one call more: ready bytes, of as many as the request says.

Over gRPC as a call of the same dispatcher, and as a bare handler of grpc.aio on a port of its own; over HTTP as the
plainest handler of the same library, on another port. A second call of the bench's own switches counting and logging of
calls off and on. A process of its own, which prints the ports of gRPC, HTTP and the bare handlers, and its key, and
ends with stdin: `running` starts it and reads them.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import randbytes

import grpc
from aiohttp import web
from grpc import aio

from gpuproxy.adapters import logs
from gpuproxy.adapters.system import SocketProbe, SystemRandom, Threads
from gpuproxy.app import deployment, marketplaces
from gpuproxy.app.access import open_access
from gpuproxy.app.loops import loop_factory
from gpuproxy.app.main import collect_rarely
from gpuproxy.app.opening import OpenDatabase, open_database, use_clock
from gpuproxy.app.wiring import Engine, build_engine, build_interfaces
from gpuproxy.config.loading import load_settings
from gpuproxy.config.settings import Settings
from gpuproxy.edge.grpc.server import raw_rpc
from gpuproxy.edge.rpc.dispatch import Dispatcher
from gpuproxy.model.labels import Signer
from scripts.bench.market import NAME, marketplace, offers

ROOT = Path(__file__).resolve().parents[2]
SERVICE, METHOD, SWITCH = "gpuproxy.bench.Ready", "Bytes", "Switch"
ON, OFF = b"on", b"off"
KEY = f"gpx-{'b' * 43}"
"""Of the first admin, where servers share it."""
_observed = Dispatcher._log  # noqa: SLF001 - what it costs is the question


@dataclass(frozen=True, slots=True)
class Running:
    """A server of its own, with its ports on loopback."""

    pid: int
    grpc: int
    http: int
    plain: int
    """Bare HTTP."""
    bare: int
    """Bare gRPC."""
    key: str


@contextmanager
def running(folder: Path, loop: str = "asyncio", url: str = "") -> Iterator[Running]:
    """One until the end of the block, with its books and its log in `folder`, on the event loop asyncio or uvloop.

    `url`: of a PostgreSQL database with the books. Servers on one database have one folder.
    """
    with (folder / "server.log").open("a") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "scripts.bench.server", str(folder), loop, url],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None  # noqa: S101 - it was asked for
            *ports, key = server.stdout.readline().split()
            grpc_port, http, plain, bare = map(int, ports)
            yield Running(server.pid, grpc_port, http, plain, bare, key)
        finally:
            server.communicate(timeout=30)


@lru_cache(maxsize=4096)
def _ready(size: int) -> bytes:
    return randbytes(size)  # not bytes(size): pages of zeros that nobody wrote to are all the same page


async def _bytes(raw: bytes) -> bytes:
    return _ready(int(raw))


async def _switch(raw: bytes) -> bytes:
    """From now on calls are counted and logged, or not."""
    Dispatcher._log = _observed if raw == ON else _unobserved  # type: ignore[method-assign]  # noqa: SLF001
    return b""


def _unobserved(*_: object, **__: object) -> None:
    pass


async def _plain() -> web.AppRunner:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=_ready(int(request.match_info["size"])), content_type="application/json")

    app = web.Application()
    app.router.add_get("/{size}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner


async def _bare() -> tuple[aio.Server, int]:
    async def answer(raw: bytes, _context: object) -> bytes:
        return _ready(int(raw))

    server = aio.server()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {METHOD: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


@asynccontextmanager
async def wired(folder: Path, url: str = "") -> AsyncIterator[tuple[Settings, Engine, OpenDatabase]]:
    """The engine over the offers of `market`, wired as `serve` does it, with its books in `folder` or at `url`."""
    variables = {"GPUPROXY_DATABASE_URL": url or f"sqlite:///{folder}/books.db"}
    if url:
        variables |= {f"GPUPROXY_{name}_KEY_FILE": f"{folder}/{name}" for name in ("ADMIN", "DEMAND", "SECRETS")}
    settings = load_settings(variables, env_file=None, marketplaces=marketplaces.installed())
    collect_rarely()
    async with open_database(settings) as db:
        clock = await deployment.start_clock(db, 1.0)
        await use_clock(db, clock.now)
        engine = build_engine(
            settings,
            db=db,
            clock=clock,
            random=SystemRandom(),
            providers=[marketplace(offers())],
            probe=SocketProbe(),
            signer=Signer("bench1", b"not a secret"),
            workers=Threads(),
        )
        await engine.start()
        if db.exclusive:
            await engine.catalog.step(NAME)  # to its end: the first snapshot is of the first page
        yield settings, engine, db
        await engine.stop()


async def run(folder: Path, url: str) -> None:
    """Serve until stdin closes; logs go to stderr as they always do."""
    async with wired(folder, url) as (settings, engine, db):
        logs.configure(level=settings.log_level, style=settings.log_format)
        random = SystemRandom()
        key = await deployment.ensure_admin(db, random, KEY if url else "", settings.admin_key_file)
        extra = {f"{SERVICE}/{METHOD}": raw_rpc(METHOD, _bytes), f"{SERVICE}/{SWITCH}": raw_rpc(SWITCH, _switch)}
        access = await open_access(settings, db, engine.clock, random)
        faces = build_interfaces(settings, engine, access, random, extra=extra)
        port = await faces.grpc.start("127.0.0.1:0")
        http = await faces.http.start("127.0.0.1", 0)
        runner = await _plain()
        bare, bare_port = await _bare()
        print(port, http, runner.addresses[0][1], bare_port, key, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await bare.stop(None)
        await faces.drain(1)
        await runner.cleanup()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory(sys.argv[2])) as runner:  # type: ignore[arg-type]
        runner.run(run(Path(sys.argv[1]), sys.argv[3]))
