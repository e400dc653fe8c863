"""The pages of warm pools: the list, and one with its state table, its failovers and its costs; live."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gpuproxy.edge.messages.pool_figures import percentile
from gpuproxy.edge.web.rendering import given
from gpuproxy.edge.web.visits import ROOT, Visit, part
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.pools import TRANSITIONS, PoolEvent, PoolState
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PAGE = 50
_PLACES: Mapping[PoolState, tuple[int, int]] = {
    PoolState.DISABLED: (65, 85),
    PoolState.SEARCHING: (225, 25),
    PoolState.PROVISIONING: (225, 145),
    PoolState.DEGRADED: (405, 85),
    PoolState.FAILOVER: (575, 25),
    PoolState.ACTIVE: (575, 145),
}
"""The middles of the states in the picture."""
_HALF_WIDTH, _HALF_HEIGHT = 60, 19
"""Of a state's box, with a little air."""
_TO_DISABLED = (PoolEvent.DISABLE, PoolEvent.CLEANUP)
"""They lead from every state to the same one; the picture says so in words."""
PHASES = ("detect", "fence", "start", "reachable", "promote")


async def listed(visit: Visit) -> web.Response:
    """A page of warm pools."""
    request = pb.ListWarmPoolsRequest(page_size=_PAGE, page_token=visit.query.get("page_token", ""))
    found = await visit.call(request, pb.ListWarmPoolsResponse)
    more = ""
    if found.next_page_token:
        more = str(visit.request.rel_url.with_query({"page_token": found.next_page_token}))
    return visit.page("pools.html", found=found, more=more)


async def page(visit: Visit) -> web.Response:
    """One warm pool."""
    return visit.page("pool.html", **await _values(visit))


async def live(visit: Visit) -> web.StreamResponse:
    """The live part of it."""

    async def fragment() -> str:
        return visit.text("_pool.html", **await _values(visit))

    return await visit.live(fragment)


async def enable(visit: Visit) -> web.Response:
    """Resume supervision, or create the pool anew."""
    await visit.call(pb.EnableWarmPoolRequest(machine_id=_id(visit)), pb.EnableWarmPoolResponse)
    return visit.to(_path(visit))


async def disable(visit: Visit) -> web.Response:
    """End supervision; the primary stays."""
    await visit.call(pb.DisableWarmPoolRequest(machine_id=_id(visit)), pb.DisableWarmPoolResponse)
    return visit.to(_path(visit))


async def test(visit: Visit) -> web.Response:
    """Swap primary and standby. Answers when it is over; other pages show how it goes on."""
    await visit.call(pb.TestWarmPoolFailoverRequest(machine_id=_id(visit)), pb.TestWarmPoolFailoverResponse)
    return visit.to(_path(visit))


async def cleanup(visit: Visit) -> web.Response:
    """Destroy the machines of the pool, and its volumes unless the form keeps them. Answers when they are gone."""
    request = pb.CleanupWarmPoolRequest(machine_id=_id(visit), keep_volume=visit.form.get("keep_volume") == "true")
    await visit.call(request, pb.CleanupWarmPoolResponse)
    return visit.to(_path(visit))


async def delete_volume(visit: Visit) -> web.Response:
    """Delete a volume that the pool no longer uses."""
    request = pb.DeleteRetainedVolumeRequest(machine_id=_id(visit), volume_id=visit.form.get("volume_id", ""))
    await visit.call(request, pb.DeleteRetainedVolumeResponse)
    return visit.to(_path(visit))


async def _values(visit: Visit) -> Mapping[str, Any]:
    pool = await visit.call(pb.GetWarmPoolStatusRequest(machine_id=_id(visit)), pb.WarmPoolStatus, poll=True)
    return {
        "pool": pool,
        "places": _PLACES,
        "arrows": _arrows(),
        "phases": PHASES,
        "percentiles": _percentiles(pool),
        "since": pool.transitions[-1].at if pool.transitions else None,
        "given": given,
        "monthly": _monthly(pool),
    }


def _arrows() -> list[tuple[float, float, float, float]]:
    """The lines of the picture, from the state table: from the edge of one state's box to the edge of another's."""
    pairs = {
        (begin, end)
        for begin, events in TRANSITIONS.items()
        for event, end in events.items()
        if begin != end and event not in _TO_DISABLED
    }
    return [_arrow(_PLACES[begin], _PLACES[end]) for begin, end in sorted(pairs)]


def _arrow(begin: tuple[int, int], end: tuple[int, int]) -> tuple[float, float, float, float]:
    across, down = end[0] - begin[0], end[1] - begin[1]
    share = min(
        _HALF_WIDTH / abs(across) if across else 1.0,
        _HALF_HEIGHT / abs(down) if down else 1.0,
    )
    return begin[0] + across * share, begin[1] + down * share, end[0] - across * share, end[1] - down * share


def _percentiles(pool: pb.WarmPoolStatus) -> list[tuple[str, float | None, list[float | None]]]:
    """For the median and the 95th percentile: the name, the value of whole failovers, and that of each phase."""
    parts = [[part for each in pool.failovers if (part := given(each.phases, name)) is not None] for name in PHASES]
    whole = [each.seconds for each in pool.failovers]
    return [
        (name, percentile(whole, percent), [percentile(part, percent) for part in parts])
        for name, percent in (("median", 50), ("95th percentile", 95))
    ]


def _monthly(pool: pb.WarmPoolStatus) -> float:
    return sum(cost.price_per_month for cost in pool.costs)


def _id(visit: Visit) -> int:
    text = visit.request.match_info["id"]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidArgument([Violation("machine_id", "must be a whole number")])
    return int(text)


def _path(visit: Visit) -> str:
    return f"{ROOT}pools/{part(visit.request.match_info['id'])}"
