"""What the server adds to a call: its CPU time against that of a bare grpc.aio handler that returns as many bytes.

Both handlers are in one process and in one event loop. The calls are the same, with the same metadata and timeout.
"""

import asyncio
import statistics
from pathlib import Path

from grpc import aio

from scripts.bench.load import LIST, Measured, Raw, phase
from scripts.bench.market import offers, requests
from scripts.bench.report import Row
from scripts.bench.server import METHOD, SERVICE, Running, running

_ROUNDS = 30
_CONNECTIONS = 4
_HEALTH = "/gpuproxy.v1.GPUProxyService/HealthCheck"
_BARE = f"/{SERVICE}/{METHOD}"


def measure(folder: Path) -> list[Row]:
    """The ratios of the CPU times within rounds; their medians."""
    with running(folder) as server:
        listing = requests(offers(), 1)[0].SerializeToString()
        return [
            asyncio.run(_row(server, "HealthCheck", _HEALTH, b"", 1.5)),
            asyncio.run(_row(server, "list 1,000 of 20,000, from the cache", LIST, listing, 1.25)),
        ]


async def _row(server: Running, what: str, method: str, request: bytes, at_most: float) -> Row:
    ours, bare = _channels(server.grpc), _channels(server.bare)
    metadata = (("x-api-key", server.key),)
    call: Raw = ours[0].unary_unary(method)
    size = str(len(await call(request, metadata=metadata, timeout=30))).encode()
    rounds: list[tuple[Measured, Measured]] = []
    for number in range(_ROUNDS + 1):
        if number % 2:
            first = await phase(ours, method, [request], metadata, server.pid)
            rounds.append((first, await phase(bare, _BARE, [size], metadata, server.pid)))
        else:
            floor = await phase(bare, _BARE, [size], metadata, server.pid)
            rounds.append((await phase(ours, method, [request], metadata, server.pid), floor))
    for channel in (*ours, *bare):
        await channel.close()
    del rounds[0]  # it warms up
    cpu = [statistics.median(each[which]["cpu_ms"] for each in rounds) for which in (0, 1)]
    return Row(
        name=f"CPU of {what}, against a bare grpc.aio handler",
        value=statistics.median(one["cpu_ms"] / floor["cpu_ms"] for one, floor in rounds),
        unit="x",
        at_most=at_most,
        note=f"{cpu[0]:.3f} ms of {cpu[1]:.3f} ms a call, {size.decode()} bytes",
    )


def _channels(port: int) -> list[aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(_CONNECTIONS)]
