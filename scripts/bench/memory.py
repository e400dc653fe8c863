"""Resident memory of the real server on a market of twenty thousand offers, after refreshes and listings."""

from pathlib import Path

from gpuproxy.v1 import gpuproxy_pb2 as pb
from scripts.bench.report import Row
from scripts.bench.waiting import until
from tests.system.processes import KIND, UNPACED, Market, Server

_MACHINES = 7_500
_LEAST = 20_000
_REFRESHES = 6
_SETTINGS = {"GPUPROXY_CATALOG_REFRESH_INTERVAL": "2s", **UNPACED}


def measure(folder: Path) -> list[Row]:
    """After so many refreshes, with a few large answers in between."""
    options = ("--machines", str(_MACHINES), *KIND)
    everything = pb.ListGPUInstancesRequest(max_price=100_000.0, verified_only=False, disk_gb=8)
    with (
        Market(folder, *options) as market,
        Server(folder, market, **_SETTINGS) as server,
        server.client() as client,
    ):
        seen: set[int] = set()

        def refreshed() -> bool:
            answer = client.call("ListGPUInstances", everything)
            if answer.total_count >= _LEAST:
                seen.add(answer.as_of.ToNanoseconds())
            return len(seen) >= _REFRESHES

        until(refreshed, f"{_REFRESHES} refreshes of {_LEAST} offers")
        total = client.call("ListGPUInstances", everything).total_count
        resident = server.memory_kb() / 1024
    return [
        Row(
            name=f"resident memory with {total:,} offers",
            value=resident,
            unit="MB",
            at_most=200,
            note=f"after {_REFRESHES} refreshes",
        )
    ]
