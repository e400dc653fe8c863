"""What the server adds to a call: its CPU time against that of a bare grpc.aio handler that returns as many bytes.

Both handlers are in one process and in one event loop. The calls are the same, with the same metadata and timeout.
"""

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grpc import aio

from scripts.bench.load import LIST, Raw, phase
from scripts.bench.market import offers, requests
from scripts.bench.report import Row
from scripts.bench.server import METHOD, SERVICE, Running, running

_ROUNDS = 30
_CONNECTIONS = 4
_HEALTH = "/gpuproxy.v1.GPUProxyService/HealthCheck"
_BARE = f"/{SERVICE}/{METHOD}"


def measure(folder: Path) -> list[Row]:
    """The ratios of the CPU times within rounds; their medians."""
    (folder / "uvloop").mkdir()
    with running(folder) as server, running(folder / "uvloop", "uvloop") as quick:
        listing = requests(offers(), 1)[0].SerializeToString()
        return [
            asyncio.run(_against_bare(server, "HealthCheck", _HEALTH, b"", 1.5)),
            asyncio.run(_against_bare(server, "list 1,000 of 20,000, from the cache", LIST, listing, 1.25)),
            asyncio.run(_loops(quick, server)),
        ]


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a comparison: where it is called, how, and the process whose CPU time counts."""

    channels: Sequence[aio.Channel]
    method: str
    request: bytes
    server: Running

    async def cpu_ms(self) -> float:
        """Of one call, measured over a while."""
        metadata = (("x-api-key", self.server.key),)
        return (await phase(self.channels, self.method, [self.request], metadata, self.server.pid))["cpu_ms"]


async def _against_bare(server: Running, what: str, method: str, request: bytes, at_most: float) -> Row:
    ours, bare = _channels(server.grpc), _channels(server.bare)
    call: Raw = ours[0].unary_unary(method)
    size = str(len(await call(request, metadata=(("x-api-key", server.key),), timeout=30))).encode()
    ratio, one, floor = await _compared(_Side(ours, method, request, server), _Side(bare, _BARE, size, server))
    return Row(
        name=f"CPU of {what}, against a bare grpc.aio handler",
        value=ratio,
        unit="x",
        at_most=at_most,
        note=f"{one:.3f} ms of {floor:.3f} ms a call, {size.decode()} bytes",
    )


async def _loops(uvloop: Running, plain: Running) -> Row:
    sides = [_Side(_channels(server.grpc), _HEALTH, b"", server) for server in (uvloop, plain)]
    ratio, one, floor = await _compared(*sides)
    return Row(
        name="CPU of HealthCheck on uvloop, against asyncio",
        value=ratio,
        unit="x",
        at_most=1,
        note=f"{one:.3f} ms of {floor:.3f} ms a call",
    )


async def _compared(one: _Side, floor: _Side) -> tuple[float, float, float]:
    """The ratio, and the milliseconds of each: medians over rounds in which both have a turn."""
    rounds: list[tuple[float, float]] = []
    for number in range(_ROUNDS + 1):
        if number % 2:
            first = await one.cpu_ms()
            rounds.append((first, await floor.cpu_ms()))
        else:
            second = await floor.cpu_ms()
            rounds.append((await one.cpu_ms(), second))
    for channel in (*one.channels, *floor.channels):
        await channel.close()
    del rounds[0]  # it warms up
    median = statistics.median
    return median(a / b for a, b in rounds), median(a for a, _ in rounds), median(b for _, b in rounds)


def _channels(port: int) -> list[aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return [aio.insecure_channel(f"127.0.0.1:{port}", options=options) for _ in range(_CONNECTIONS)]
