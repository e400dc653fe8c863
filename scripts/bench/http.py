"""ListGPUInstances over HTTP against a bare handler of the same library with ready bytes of the same size."""

import asyncio
import statistics
import time
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.load import Measured, cpu_seconds
from scripts.bench.market import MATCHING, offers, requests
from scripts.bench.report import Row
from scripts.bench.server import Running, running

_ROUNDS = 7
_SECONDS = 1.2
_CALLERS = 8


def measure(folder: Path) -> list[Row]:
    """Requests per second as ratios within rounds, and their medians."""
    with running(folder) as server:
        rounds = asyncio.run(_rounds(server))

    def median(which: int, figure: str) -> float:
        return statistics.median(each[which][figure] for each in rounds)

    return [
        Row(
            name="list 1,000 of 20,000 over HTTP: the same filter again and again",
            value=statistics.median(listed["rate"] / ready["rate"] for listed, ready in rounds),
            unit="x",
            at_least=0.6,
            note=f"{median(0, 'rate'):.0f}/s of {median(1, 'rate'):.0f}/s of a bare handler; server CPU a call "
            f"{median(0, 'cpu_ms'):.2f} ms of {median(1, 'cpu_ms'):.2f} ms",
        )
    ]


async def _rounds(server: Running) -> list[tuple[Measured, Measured]]:
    query = urlencode(_query(requests(offers(), 1)[0]))
    listing = f"http://127.0.0.1:{server.http}/api/v1/gpu/instances?{query}"
    headers = {"X-API-Key": server.key, "Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.get(listing) as answer:
            size, total = len(await answer.read()), (await answer.json())["total_count"]
        if not MATCHING * 0.9 <= total <= MATCHING * 1.1:
            raise SystemExit(f"the filter matches {total} offers")
        addresses = [listing, f"http://127.0.0.1:{server.plain}/{size}"]
        rounds = []
        for number in range(_ROUNDS + 1):
            turn = addresses if number % 2 else addresses[::-1]
            rates = {address: await _rate(session, address, server.pid) for address in turn}
            rounds.append((rates[listing], rates[addresses[1]]))
    return rounds[1:]  # the first one warms up


async def _rate(session: aiohttp.ClientSession, address: str, pid: int) -> Measured:
    done, before, began = 0, cpu_seconds(pid), time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - began < _SECONDS:
            async with session.get(address) as answer:
                await answer.read()
            done += 1

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    seconds = time.perf_counter() - began
    return {"rate": done / seconds, "cpu_ms": (cpu_seconds(pid) - before) * 1000 / done}


def _query(request: pb.ListGPUInstancesRequest) -> dict[str, str]:
    values = {field.name: value for field, value in request.ListFields()}
    values["verified_only"] = request.verified_only
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
