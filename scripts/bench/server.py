"""The real server over twenty thousand offers, with one call more: ready bytes, of as many as the request says.

A process of its own (`python -m scripts.bench.server FOLDER`), which prints its port and its key and ends with stdin.
"""

import asyncio
import base64
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from gpuproxy import deployment, logs
from gpuproxy.config import load_settings
from gpuproxy.edge.grpc_server import raw_rpc
from gpuproxy.main import build_engine, build_server, collect_rarely
from gpuproxy.store.sqlite import SqliteDatabase
from gpuproxy.system import ScaledClock, SocketProbe, SystemRandom
from scripts.bench.market import Marketplace, offers

SERVICE, METHOD = "gpuproxy.bench.Ready", "Bytes"


@lru_cache(maxsize=4096)
def _ready(size: int) -> bytes:
    return bytes(size)


async def _bytes(raw: bytes) -> bytes:
    return _ready(int(raw))


async def run(folder: Path) -> None:
    """Serve until stdin closes; logs go to stderr as they always do."""
    settings = load_settings({"GPUPROXY_DATABASE_URL": f"sqlite:///{folder}/books.db"}, env_file=None)
    logs.configure(level=settings.log_level, style=settings.log_format)
    collect_rarely()
    random, clock = SystemRandom(), ScaledClock()
    db = SqliteDatabase(str(settings.database_path), lambda: datetime.now(UTC))
    try:
        key = await deployment.ensure_admin(db, random, "", settings.admin_key_file)
        engine = build_engine(
            settings,
            db=db,
            clock=clock,
            random=random,
            providers=[Marketplace(offers())],
            probe=SocketProbe(),
            signer=deployment.Signer("bench1", base64.b64encode(b"bench")),
        )
        await engine.start()
        extra = {f"{SERVICE}/{METHOD}": raw_rpc(METHOD, _bytes)}
        server = build_server(settings, engine, db, random, extra=extra)
        port = await server.start("127.0.0.1:0")
        await engine.catalog.first_snapshot()
        print(port, key, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.drain(1)
        await engine.stop()
    finally:
        await db.close()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
