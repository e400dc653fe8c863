"""From vast.ai's bytes to offers, and from offers to a snapshot: how long it takes and how long nobody else runs."""

import asyncio
import gc
import statistics
import time
from collections.abc import Callable, Coroutine
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec

from gpuproxy.adapters.system import ScaledClock, Threads
from gpuproxy.catalog.refresh import Catalog
from gpuproxy.catalog.search import EVERYTHING
from gpuproxy.edge.messages.instances import encode_offer
from gpuproxy.ports import HttpRequest, HttpResponse, ProviderSetup
from gpuproxy.providers.vast import DESCRIPTOR
from gpuproxy.providers.vast.wire import WireOffer, read_search
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.world import build
from scripts.bench.market import OFFERS, marketplace, offers
from scripts.bench.report import Row
from scripts.bench.stalls import watched

ROWS = 2_000
_RUNS = 15
_DECODES = 41
_REFRESHES = 5


class _Recorded:
    """Answers every other question with the same page; in between there is nothing more."""

    def __init__(self, body: bytes) -> None:
        self._pages = cycle((body, b'{"offers": []}'))

    async def send(self, request: HttpRequest) -> HttpResponse:
        del request
        return HttpResponse(status=200, headers={}, body=next(self._pages))


def measure(_folder: Path) -> list[Row]:
    """Both; and the worst stalls of the loop (the median of the runs' worst)."""
    return asyncio.run(_measure())


async def _measure() -> list[Row]:
    body = _search_answer()
    setup = ProviderSetup(
        account="bench",
        key="bench-key",
        base_url="",
        http=_Recorded(body),
        clock=ScaledClock(),
        workers=Threads(),
        intervals={"search": 0.0},
    )
    provider = DESCRIPTOR.connect(setup)

    async def search() -> None:
        found = [len(page) async for page in provider.search(EVERYTHING)]
        if sum(found) != ROWS:
            raise SystemExit(f"{ROWS} rows became {found} offers")

    alone = msgspec.json.Decoder(_Page, strict=False)

    async def decode() -> None:
        alone.decode(body)

    floor, _ = await _run(decode, _RUNS)
    taken, stall = await _run(search, _RUNS)
    stalls = Row(
        name=f"search of {ROWS:,} vast.ai offers: worst stall of the loop, against msgspec alone",
        value=stall / floor,
        unit="x",
        at_most=1.5,
        note=f"{stall:.1f} ms of {floor:.1f} ms; the search takes {taken:.1f} ms",
    )
    return [_decoded(body), stalls, *await _refresh()]


class _Page(msgspec.Struct):
    """What msgspec alone makes of the same bytes: the same columns with the same types, and no offers."""

    offers: list[WireOffer]


def _decoded(body: bytes) -> Row:
    alone = msgspec.json.Decoder(_Page, strict=False)
    ratios, taken, floors = [], [], []
    for _ in range(_DECODES):
        floors.append(_cpu_ms(lambda: alone.decode(body)))
        taken.append(_cpu_ms(lambda: read_search(body, {})))
        ratios.append(taken[-1] / floors[-1])
    return Row(
        name=f"decode {ROWS:,} vast.ai offers, against msgspec alone",
        value=statistics.median(ratios),
        unit="x",
        at_most=2,
        note=f"{statistics.median(taken):.1f} ms of {statistics.median(floors):.1f} ms, {len(body) / 1e6:.1f} MB",
    )


def _cpu_ms(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * 1000


async def _refresh() -> list[Row]:
    market = offers()
    provider = marketplace(market)
    catalog = Catalog([provider], ScaledClock(), {"grpc": encode_offer})
    name = f"catalog refresh of {OFFERS:,} offers"
    taken, stall = await _run(lambda: catalog.step(provider.name), 1)
    rows = [Row(name=f"{name}, all new", value=taken, unit="ms", note=f"worst stall {stall:.0f} ms")]
    taken, stall = await _run(lambda: catalog.step(provider.name), _REFRESHES)
    return [*rows, Row(name=f"{name}, unchanged", value=taken, unit="ms", note=f"worst stall {stall:.0f} ms")]


async def _run(work: Callable[[], Coroutine[Any, Any, None]], runs: int) -> tuple[float, float]:
    """Medians, in milliseconds: of the time, and of the worst stall."""
    taken, stalls = [], []
    for _ in range(runs):
        async with watched() as stall:
            began = time.perf_counter()
            await work()
            taken.append((time.perf_counter() - began) * 1000)
        stalls.append(stall.worst_ms)
    return statistics.median(taken), statistics.median(stalls)


def _search_answer() -> bytes:
    """So many rows as the sandbox writes them, with all columns."""
    sandbox = build(SandboxOptions(rate_limits="off", machines=ROWS), ScaledClock())
    query = {"rentable": {"eq": True}, "disable_bundling": True, "limit": ROWS}
    answer = sandbox.receive(
        HttpRequest(
            method="POST",
            url="http://localhost/api/v0/bundles/",
            headers={"authorization": "Bearer sandbox-key", "content-type": "application/json"},
            body=msgspec.json.encode(query),
        )
    ).response
    gc.collect()
    if answer is None or answer.status != 200:
        raise SystemExit(f"the sandbox did not answer a search: {answer}")
    return answer.body
