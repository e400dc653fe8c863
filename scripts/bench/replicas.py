"""Several servers on one PostgreSQL against one, and PostgreSQL against SQLite: cached lists, and reservations.

PostgreSQL is Debian's, on loopback, with fsync. All servers run at the same time and take turns with each call.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from grpc import aio

from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub
from scripts.bench.load import LIST, Raw, cpu_seconds, phase
from scripts.bench.market import OFFERS, offers, requests
from scripts.bench.report import Row
from scripts.bench.reserving import GPUS, bare_creates, reserve, wait_for_market
from scripts.bench.server import Running, running
from tests import postgres
from tests.system.processes import KIND, UNPACED, Client, Market, Server

_ROUNDS = 24
_PAIRS = 400
_RESERVES = 15
_METADATA_KEY = "x-api-key"
_SECONDS = 300


def measure(folder: Path) -> list[Row]:
    """Nothing without PostgreSQL."""
    if postgres.binaries() is None:
        print("PostgreSQL is not installed: nothing is measured", file=sys.stderr)
        return []
    database = postgres.Server(fsync=True, settings={"full_page_writes": "on"})
    try:
        return [*_lists(folder, database), *_reservations(folder, database)]
    finally:
        database.remove()


def _lists(folder: Path, database: postgres.Server) -> list[Row]:
    with ExitStack() as stack:

        def start(name: str, url: str = "") -> Running:
            (folder / name).mkdir(exist_ok=True)
            return stack.enter_context(running(folder / name, url=url))

        on_file, alone = start("file"), start("one", database.create())
        shared = database.create()
        pair = [start("two", shared) for _ in range(2)]
        return asyncio.run(_compared(on_file, alone, pair))


async def _compared(on_file: Running, alone: Running, pair: Sequence[Running]) -> list[Row]:
    for server in (on_file, alone, *pair):
        await _until_all_offers_are_known(server)
    request = requests(offers(), 1)[0].SerializeToString()
    one, two = _Group([alone], request), _Group(pair, request)
    file = _Group([on_file], request)
    costs = [await _turns(one, two, number) for number in range(_ROUNDS + 1)][1:]  # the first one warms up
    times = [await _latencies(file, one, number) for number in range(_PAIRS + 20)][20:]
    for group in (one, two, file):
        await group.close()
    median = statistics.median
    single, both = median(a for a, _ in costs), median(b for _, b in costs)
    quick, slow = median(a for a, _ in times) * 1000, median(b for _, b in times) * 1000
    return [
        Row(
            name="CPU of list 1,000 of 20,000 from the cache: two servers on one PostgreSQL, against one",
            value=median(b / a for a, b in costs), unit="x", at_most=1.15,
            note=f"{both:.3f} ms of {single:.3f} ms a call; median of {_ROUNDS}",
        ),
        Row(
            name="time of list 1,000 of 20,000 from the cache: PostgreSQL, against SQLite",
            value=median(b / a for a, b in times), unit="x", at_most=1.1,
            note=f"{slow:.2f} ms of {quick:.2f} ms, one call at a time; median of {_PAIRS}",
        ),
    ]  # fmt: skip


class _Group:
    """Servers that share the calls, and the list that is asked of them."""

    def __init__(self, servers: Sequence[Running], request: bytes) -> None:
        self._servers = servers
        self._request = request
        self._metadata = ((_METADATA_KEY, servers[0].key),)
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [
            aio.insecure_channel(f"127.0.0.1:{servers[number % len(servers)].grpc}", options=options)
            for number in range(4)
        ]
        self._call: Raw = self._channels[0].unary_unary(LIST)

    async def cpu_ms(self) -> float:
        """CPU of all servers for a call, over a while."""
        pids = [each.pid for each in self._servers]
        return (await phase(self._channels, LIST, [self._request], self._metadata, *pids))["cpu_ms"]

    async def seconds(self) -> float:
        """Of one call."""
        began = time.perf_counter()
        await self._call(self._request, metadata=self._metadata, timeout=_SECONDS)
        return time.perf_counter() - began

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()


async def _turns(one: _Group, two: _Group, number: int) -> tuple[float, float]:
    if number % 2:
        first = await one.cpu_ms()
        return first, await two.cpu_ms()
    second = await two.cpu_ms()
    return await one.cpu_ms(), second


async def _latencies(one: _Group, two: _Group, number: int) -> tuple[float, float]:
    if number % 2:
        first = await one.seconds()
        return first, await two.seconds()
    second = await two.seconds()
    return await one.seconds(), second


async def _until_all_offers_are_known(server: Running) -> None:
    request = pb.ListGPUInstancesRequest(max_price=1000, verified_only=False, page_size=1)
    async with aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        stub = GPUProxyServiceStub(channel)
        give_up = time.monotonic() + _SECONDS
        while True:
            try:
                call = stub.ListGPUInstances(request, metadata=((_METADATA_KEY, server.key),), wait_for_ready=True)
                if (await call).total_count == OFFERS:
                    return
            except aio.AioRpcError:
                pass
            if time.monotonic() > give_up:
                raise SystemExit("a server does not know the offers")
            await asyncio.sleep(0.2)


def _reservations(folder: Path, database: postgres.Server) -> list[Row]:
    with ExitStack() as stack:
        sides = []
        for name, settings in (("sqlite", {}), ("postgres", {"GPUPROXY_DATABASE_URL": database.create()})):
            (folder / name).mkdir()
            market = stack.enter_context(Market(folder / name, *KIND))
            server = stack.enter_context(Server(folder / name, market, **UNPACED, **settings))
            sides.append(_Side(market, server, stack.enter_context(server.client())))
        for turn in range(_RESERVES + 1):
            for side in sides if turn % 2 else reversed(sides):
                side.reserve(counts=turn > 0)  # the first one warms up
    file, shared = sides
    return [
        Row(
            name=f"own time of reserve {GPUS}: PostgreSQL, against SQLite",
            value=statistics.median(shared.own) / statistics.median(file.own), unit="x", at_most=1.5,
            note=f"{_ms(shared.own)} of {_ms(file.own)} beyond {_ms(shared.floor)} of {GPUS} bare creates at once; "
            f"median of {_RESERVES}",
        ),
        Row(
            name=f"server CPU of reserve {GPUS}: PostgreSQL, against SQLite",
            value=sum(shared.cpu) / sum(file.cpu), unit="x", at_most=1.5,
            note=f"{1000 * sum(shared.cpu) / _RESERVES:.0f} ms of {1000 * sum(file.cpu) / _RESERVES:.0f} ms a call",
        ),
    ]  # fmt: skip


class _Side:
    """A server with its market."""

    def __init__(self, market: Market, server: Server, client: Client) -> None:
        self._market = market
        self._server = server
        self._client = client
        self.own: list[float] = []
        """Seconds beyond those of the creates alone."""
        self.floor: list[float] = []
        self.cpu: list[float] = []
        wait_for_market(client)

    def reserve(self, *, counts: bool) -> None:
        """Reserve and release once; `counts`: record it."""
        floor = asyncio.run(bare_creates(self._market))
        seconds, cpu = reserve(self._market, self._client, lambda: cpu_seconds(self._server.pid))
        if counts:
            self.floor.append(floor)
            self.own.append(seconds - floor)
            self.cpu.append(cpu)


def _ms(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms"
