"""The page Market: offers and prices under the API's filters, a dry run that explains the choice, and renting."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from urllib.parse import urlencode

from aiohttp import web

from gpuproxy.edge.web import forms, left_out
from gpuproxy.edge.web.forms import Form
from gpuproxy.edge.web.visits import ROOT, Visit, part
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PAGE = 50
_CHUNK = 500
"""Offers that are read at once for the prices by model. Between two chunks, other calls run."""
_MOST_OFFERS = 10_000
_BARS = 16
_LISTS = ("ports", "exclude_hosts", "labels")
_NOT_ASKED = ("page_size", "page_token", "state", "dry_run", "wait", "wait_for")
"""Fields that the page sets itself."""
_FIRST = {"count": "1", "lease_duration": "24h", "verified_only": "true"}
"""What the form proposes. A lease with an end can't be forgotten."""


async def page(visit: Visit) -> web.Response:
    """The form and, once it was used, the offers. The prices by model are loaded by the page itself."""
    form = visit.query
    strategies = await visit.call(pb.GetLoadBalancerStrategyRequest(), pb.GetLoadBalancerStrategyResponse)
    found = await _offers(visit, form)
    return visit.page(
        "market.html",
        form=form or _FIRST,
        found=found,
        more=_more(visit, found),
        providers=[(name, name) for name in visit.site.providers],
        strategies=strategies,
        strategy_names=[(name, name) for name in strategies.available],
    )


async def offers(visit: Visit) -> web.Response:
    """The table of offers alone."""
    found = await _offers(visit, visit.query)
    return visit.page("_offers.html", found=found, more=_more(visit, found))


async def prices(visit: Visit) -> web.Response:
    """The prices by model under the same filters."""
    by_model: dict[str, list[float]] = defaultdict(list)
    request = forms.request_of(pb.ListGPUInstancesRequest, visit.query, without=(*_NOT_ASKED, "order_by"))
    request.page_size = _CHUNK
    read = 0
    while True:
        found = await visit.call(request, pb.ListGPUInstancesResponse, poll=True)
        for offer in found.instances:
            by_model[f"{offer.gpu_model} {offer.vram_gb} GB"].append(offer.price_per_gpu_hour)
        read += len(found.instances)
        if not found.next_page_token or read >= _MOST_OFFERS:
            break
        request.page_token = found.next_page_token
    models = sorted((_prices(name, sorted(each)) for name, each in by_model.items()), key=lambda row: row.median)
    return visit.page("_prices.html", models=models, whole=not found.next_page_token)


async def plan(visit: Visit) -> web.Response:
    """What would be rented, and why; with the button that rents it."""
    request = _reserve_request(visit.form)
    request.dry_run = True
    answer = await visit.call(request, pb.ReserveGPUsResponse)
    kept = {name: text for name, text in visit.form.items() if name in request.DESCRIPTOR.fields_by_name}
    kept["request_id"] = f"web-{visit.site.random.token(20)}"  # two clicks on the button are one rental
    template = "_plan.html" if visit.partial else "plan.html"
    return visit.page(
        template, plan=answer, kept=kept, count=request.count, words=left_out.WORDS, partial=visit.partial
    )


async def rent(visit: Visit) -> web.Response:
    """Rent, and show the reservation at once: its machines appear there while they are created."""
    request = _reserve_request(visit.form)
    request.wait = False
    answer = await visit.call(request, pb.ReserveGPUsResponse)
    return visit.to(f"{ROOT}reservations/{part(answer.reservation_id)}")


def _reserve_request(form: Form) -> pb.ReserveGPUsRequest:
    return forms.request_of(pb.ReserveGPUsRequest, form, lists=_LISTS, without=_NOT_ASKED)


async def _offers(visit: Visit, form: Form) -> pb.ListGPUInstancesResponse:
    request = forms.request_of(pb.ListGPUInstancesRequest, form, without=("page_size", "state"))
    request.page_size = _PAGE
    return await visit.call(request, pb.ListGPUInstancesResponse)


def _more(visit: Visit, found: pb.ListGPUInstancesResponse) -> str:
    """The query of the next page; "" on the last."""
    if not found.next_page_token:
        return ""
    return urlencode({**visit.query, "page_token": found.next_page_token})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prices:
    """The prices of one model, in USD per GPU-hour."""

    name: str
    offers: int
    least: float
    median: float
    most: float
    bars: Sequence[float]
    """How many offers are in each of some equal steps of the price, as heights from 0 to 20."""


def _prices(name: str, ordered: list[float]) -> _Prices:
    low, high = ordered[0], ordered[-1]
    step = (high - low) / _BARS or 1.0
    bars = [0] * _BARS
    for price in ordered:
        bars[min(_BARS - 1, int((price - low) / step))] += 1
    highest = max(bars)
    return _Prices(
        name=name,
        offers=len(ordered),
        least=low,
        median=median(ordered),
        most=high,
        bars=[round(20 * each / highest, 1) for each in bars],
    )
