"""Sixteen GPUs in one call, over real processes: as fast as the creates are, and as fast as the marketplace allows."""

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from gpuproxy.providers.vast.adapter import INTERVALS
from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.report import Row
from scripts.bench.waiting import until
from tests.system.processes import KIND, UNPACED, WHOLE, Client, Market, Server

GPUS = 16
_CREATE_MS = 500
_TRIES = 7
_PACED_TRIES = 3
_SCALE = 10
_CREATE_SECONDS = 2.0
"""What one create takes in the paced market, in its seconds."""


def measure(folder: Path) -> list[Row]:
    """Both rows; the market must count exactly what was answered."""
    for name in ("free", "paced"):
        (folder / name).mkdir()
    return [_unlimited(folder / "free"), _paced(folder / "paced")]


def _unlimited(folder: Path) -> Row:
    options = ("--create-latency", str(_CREATE_MS / 1000), *KIND)
    with Market(folder, *options) as market, Server(folder, market, **UNPACED) as server, server.client() as client:
        wait_for_market(client)
        taken, floors = [], []
        for _ in range(_TRIES):
            floors.append(asyncio.run(bare_creates(market)))
            taken.append(reserve(market, client)[0])
    ratios = [one / floor for one, floor in zip(taken[1:], floors[1:], strict=True)]
    return Row(
        name=f"reserve {GPUS}, against {GPUS} bare creates of {_CREATE_MS} ms at once",
        value=statistics.median(ratios),
        unit="x",
        at_most=1.2,
        note=f"{statistics.median(taken[1:]) * 1000:.0f} ms of {statistics.median(floors[1:]) * 1000:.0f} ms; the "
        f"first, on a cold server, took {taken[0] * 1000:.0f} ms",
    )


async def bare_creates(market: Market) -> float:
    """Seconds of as many creates without a server: sent at once, until the last answer. They are destroyed again."""
    headers = {"Authorization": "Bearer sandbox-key"}
    async with aiohttp.ClientSession(market.url, headers=headers) as session:
        query = {"rentable": {"eq": True}, "num_gpus": {"eq": 1}, "disable_bundling": True, "limit": 1000}
        async with session.post("/api/v0/bundles/", json=query) as answer:
            offers = (await answer.json())["offers"]
        chosen = list({offer["machine_id"]: offer["id"] for offer in offers}.values())[:GPUS]

        async def create(offer: int) -> int:
            async with session.put(f"/api/v0/asks/{offer}/", json={"image": "x", "disk": 50}) as answer:
                return int((await answer.json())["new_contract"])

        began = time.perf_counter()
        made = await asyncio.gather(*map(create, chosen))
        seconds = time.perf_counter() - began
        for contract in made:
            async with session.delete(f"/api/v0/instances/{contract}/", json={}):
                pass
    if len(made) != GPUS or market.alive():
        raise SystemExit(f"{len(made)} bare creates; the market still has {len(market.alive())}")
    return seconds


def _paced(folder: Path) -> Row:
    scaled = (*WHOLE, "--time-scale", str(_SCALE), "--create-latency", str(_CREATE_SECONDS))
    ideal = (GPUS - 1) * INTERVALS["create"] + _CREATE_SECONDS
    with (
        Market(folder, *scaled) as market,
        Server(folder, market, GPUPROXY_TIME_SCALE=str(_SCALE)) as server,
        server.client() as client,
    ):
        wait_for_market(client)
        taken = [reserve(market, client)[0] * _SCALE for _ in range(_PACED_TRIES)]
    shown = ", ".join(f"{seconds:.1f}" for seconds in taken)
    return Row(
        name=f"reserve {GPUS} at the marketplace's pace",
        value=statistics.median(taken) / ideal,
        unit="x",
        at_most=1.05,
        note=f"{shown} s of {ideal:g} s: {GPUS - 1} intervals of {INTERVALS['create']:g} s and one create",
    )


def reserve(market: Market, client: Client, cpu: Callable[[], float] = lambda: 0.0) -> tuple[float, float]:
    """Real seconds of one reservation, and the growth of `cpu`; it is over in the books before this returns."""
    request = pb.ReserveGPUsRequest(count=GPUS, max_price=20.0)
    before, began = cpu(), time.perf_counter()
    answer = client.call("ReserveGPUs", request)
    seconds, used = time.perf_counter() - began, cpu() - before
    contracts = {each.contract_id for each in answer.reserved_instances}
    if len(answer.reserved_instances) != GPUS or contracts != set(market.alive()):
        raise SystemExit(f"{GPUS} were asked for, the market has {len(market.alive())}: {answer.message}")
    client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=answer.reservation_id))
    until(lambda: not market.alive(), "everything is released")
    asked = pb.GetReservationRequest(reservation_id=answer.reservation_id)
    until(lambda: client.call("GetReservation", asked).reservation.state == "released", "the books have it")
    return seconds, used


def wait_for_market(client: Client) -> None:
    """Return when enough offers are known."""
    request = pb.ListGPUInstancesRequest(max_price=20.0, page_size=1)
    until(lambda: client.call("ListGPUInstances", request).available_gpus >= GPUS, "the market is read")
