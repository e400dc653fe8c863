"""A whole deployment behind real gRPC and HTTP ports, on a market in this process: users, keys, engine and books."""

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from grpc import aio

from gpuproxy.adapters.system import ScaledClock, SystemRandom, Threads
from gpuproxy.app import deployment
from gpuproxy.app.access import Access, open_access
from gpuproxy.app.wiring import Engine, build_engine, build_interfaces
from gpuproxy.config.settings import settings_class
from gpuproxy.ports import ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessHttp, InProcessProbe
from gpuproxy.sandbox.world import build
from gpuproxy.store.sqlite.database import SqliteDatabase
from tests.edge.face import Face
from tests.world import KEYS, UNPACED


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """What a test holds."""

    engine: Engine
    access: Access
    db: SqliteDatabase
    grpc: Face
    web: aiohttp.ClientSession
    url: str

    async def http(
        self, verb: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        data = None if body is None else io.BytesIO(msgspec.json.encode(body))
        async with self.web.request(verb, self.url + path, data=data, headers=headers) as reply:
            return reply.status, msgspec.json.decode(await reply.read())


@asynccontextmanager
async def deployed(folder: Path, **chosen: Any) -> AsyncIterator[Deployed]:
    """From the first start to the drained end; `chosen` are settings."""
    values = {"vastai_api_key": KEYS[0], "database_url": f"sqlite:///{folder}/books.db", **chosen}
    settings = settings_class((DESCRIPTOR,))(**values)
    clock, random = ScaledClock(), SystemRandom()
    sandbox = build(SandboxOptions(rate_limits="off", accounts=KEYS, machines=40, seed=7), clock)
    db = SqliteDatabase(str(settings.database_path), clock.now)
    setup = ProviderSetup(
        account="vast-1",
        key=KEYS[0],
        base_url="http://sandbox",
        http=InProcessHttp(sandbox),
        clock=clock,
        workers=Threads(),
        intervals=UNPACED,
    )
    try:
        engine = build_engine(
            settings,
            db=db,
            clock=clock,
            random=random,
            providers=[DESCRIPTOR.connect(setup)],
            probe=InProcessProbe(sandbox),
            signer=await deployment.signer(db, random),
        )
        access = await open_access(settings, db, clock, random)
        await engine.start()
        await engine.catalog.first_snapshot()
        faces = build_interfaces(settings, engine, access, random)
        port, http = await faces.grpc.start("127.0.0.1:0"), await faces.http.start("127.0.0.1", 0)
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel, aiohttp.ClientSession() as web:
                face = Face(
                    server=faces.grpc, dispatcher=faces.grpc._dispatcher, channel=channel, port=port, clock=clock
                )
                yield Deployed(engine=engine, access=access, db=db, grpc=face, web=web, url=f"http://127.0.0.1:{http}")
        finally:
            await faces.drain(0.1)
            await engine.stop()
    finally:
        await db.close()
