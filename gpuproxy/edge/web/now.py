"""The page Now: what is paid for at this moment, unknowns first, and what it costs; live."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gpuproxy.edge.web.visits import Visit
from gpuproxy.v1 import gpuproxy_pb2 as pb

_MOST = 200
"""Machines on the page; the sums are over these, and the page says if there are more."""
_HOURS_PER_DAY = 24
_WILL_RUN = frozenset({"unknown", "starting", "active"})


async def page(visit: Visit) -> web.Response:
    """The whole page."""
    return visit.page("now.html", **await _values(visit))


async def live(visit: Visit) -> web.StreamResponse:
    """The live part of it."""

    async def fragment() -> str:
        return visit.text("_now.html", **await _values(visit))

    return await visit.live(fragment)


async def _values(visit: Visit) -> Mapping[str, Any]:
    asked = pb.ListGPUInstancesRequest(state="rented", page_size=_MOST)
    found = await visit.call(asked, pb.ListGPUInstancesResponse, poll=True)
    hourly = sum(billed(each) for each in found.instances)
    unknown = sum(each.status == "unknown" for each in found.instances)
    return {
        "instances": found.instances,
        "total": found.total_count,
        "hourly": hourly,
        "daily": hourly * _HOURS_PER_DAY,
        "running": sum(each.price_per_hour for each in found.instances if each.status in _WILL_RUN),
        "unknown": unknown,
        "volumes": sum(not each.num_gpus for each in found.instances),
        "gpus": sum(each.num_gpus for each in found.instances),
        "billed": billed,
    }


def billed(instance: pb.GPUInstance) -> float:
    """USD per hour that are billed now: of a stopped machine only its disk."""
    try:
        return float(instance.metadata["billed_per_hour"]) if "billed_per_hour" in instance.metadata else 0.0
    except ValueError:
        return instance.price_per_hour
