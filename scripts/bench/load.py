"""Calls for the server of `server.py`, as fast as eight callers can make them; the answers are never decoded.

A process of its own (`python -m scripts.bench.load PORT KEY PID`): prints one line of JSON, a list of rounds.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from grpc import aio

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.market import MATCHING, offers, requests
from scripts.bench.server import METHOD, SERVICE

ROUNDS = 24
SECONDS = 0.5
FILTERS = 64
_CONNECTIONS = 4
_CALLERS = 8
LIST = "/gpuproxy.v1.GPUProxyService/ListGPUInstances"
_READY = f"/{SERVICE}/{METHOD}"

Measured = dict[str, float]
Raw = aio.UnaryUnaryMultiCallable[bytes, bytes]
"""Without serializers bytes stay bytes."""


async def run(port: int, key: str, pid: int) -> list[dict[str, Measured]]:
    """Rounds of four phases each: the same filter, its ready bytes, many filters, their ready bytes."""
    metadata = (("x-api-key", key),)
    channels = [
        aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(_CONNECTIONS)
    ]
    many = [request.SerializeToString() for request in requests(offers(), FILTERS)]
    sizes = [await _size(channels[0], raw, metadata) for raw in many]
    phases = {
        "same": (LIST, many[:1]),
        "same_ready": (_READY, sizes[:1]),
        "many": (LIST, many),
        "many_ready": (_READY, sizes),
    }
    try:
        rounds = []
        for number in range(ROUNDS + 1):
            names = list(phases) if number % 2 else list(reversed(phases))
            figures = {name: await phase(channels, *phases[name], metadata, pid) for name in names}
            rounds.append(figures)
    finally:
        for channel in channels:
            await channel.close()
    return rounds[1:]  # the first one warms up


async def _size(channel: aio.Channel, raw: bytes, metadata: tuple[tuple[str, str], ...]) -> bytes:
    """The length of the answer, as a request for so many ready bytes."""
    listing: Raw = channel.unary_unary(LIST)
    body = await listing(raw, metadata=metadata, timeout=30)
    answer = pb.ListGPUInstancesResponse.FromString(body)
    if not MATCHING * 0.9 <= len(answer.instances) == answer.total_count <= MATCHING * 1.1:
        raise SystemExit(f"a filter matches {answer.total_count} offers and brings {len(answer.instances)}")
    return str(len(body)).encode()


async def phase(
    channels: Sequence[aio.Channel],
    method: str,
    bodies: Sequence[bytes],
    metadata: tuple[tuple[str, str], ...],
    *pids: int,
) -> Measured:
    """Calls for SECONDS over all channels: how many a second, and the CPU time that the processes took for each."""
    done = turn = 0
    before, began = cpu_seconds(*pids), time.perf_counter()

    async def caller(channel: aio.Channel) -> None:
        nonlocal done, turn
        call: Raw = channel.unary_unary(method)
        while time.perf_counter() - began < SECONDS:
            turn += 1
            await call(bodies[turn % len(bodies)], metadata=metadata, timeout=30)
            done += 1

    await asyncio.gather(*(caller(channels[number % len(channels)]) for number in range(_CALLERS)))
    seconds = time.perf_counter() - began
    return {"rate": done / seconds, "cpu_ms": (cpu_seconds(*pids) - before) * 1000 / done}


def cpu_seconds(*pids: int) -> float:
    """What processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))))
