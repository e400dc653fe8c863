"""The page that creates a warm pool: hosts that could carry one, a dry run that says what it costs, and the button."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from gpuproxy.edge.web import forms
from gpuproxy.edge.web.forms import Form
from gpuproxy.edge.web.visits import ROOT, Visit
from gpuproxy.model.errors import Refusal
from gpuproxy.v1 import gpuproxy_pb2 as pb

_MOST_HOSTS = 50
_LISTS = ("ports",)
_NOT_ASKED = ("dry_run", "wait")
"""Fields that the page sets itself."""
_FIRST: Mapping[str, str] = {"verified": "true"}
_PAGE = 500


async def page(visit: Visit) -> web.Response:
    """The form, with the hosts under its filters."""
    form = visit.query or {**_FIRST, "machine_id": str(await _next_number(visit))}
    return visit.page("pool_creation.html", form=form, **await _hosts(visit, visit.query))


async def hosts(visit: Visit) -> web.Response:
    """The table of hosts alone."""
    return visit.page("_hosts.html", form=visit.query, **await _hosts(visit, visit.query))


async def plan(visit: Visit) -> web.Response:
    """What would be created, and what it costs per hour and per month; with the button that creates it."""
    request = _request(visit.form)
    request.dry_run = True
    answer = await visit.call(request, pb.ProvisionWarmPoolResponse)
    kept = {name: text for name, text in visit.form.items() if name in request.DESCRIPTOR.fields_by_name}
    template = "_pool_plan.html" if visit.partial else "pool_plan.html"
    return visit.page(template, answer=answer, plan=answer.plan, kept=kept, machine_id=request.machine_id)


async def create(visit: Visit) -> web.Response:
    """Create the pool, and show it at once. The same form again joins the creation that goes on."""
    request = _request(visit.form)
    request.wait = False
    await visit.call(request, pb.ProvisionWarmPoolResponse)
    return visit.to(f"{ROOT}pools/{request.machine_id}")


def _request(form: Form) -> pb.ProvisionWarmPoolRequest:
    return forms.request_of(pb.ProvisionWarmPoolRequest, form, lists=_LISTS, without=_NOT_ASKED)


async def _hosts(visit: Visit, form: Form) -> Mapping[str, Any]:
    """The hosts, and how many more there are; or why they can't be read."""
    try:
        request = forms.request_of(pb.ListWarmPoolHostsRequest, form)
        found = await visit.call(request, pb.ListWarmPoolHostsResponse)
    except Refusal as refusal:
        if visit.partial:
            raise
        return {"hosts": [], "more": 0, "refused": str(refusal)}
    return {"hosts": found.hosts[:_MOST_HOSTS], "more": max(0, found.count - _MOST_HOSTS), "refused": ""}


async def _next_number(visit: Visit) -> int:
    """A number that none of the caller's pools has, as far as one page of them shows."""
    found = await visit.call(pb.ListWarmPoolsRequest(page_size=_PAGE), pb.ListWarmPoolsResponse)
    return max((pool.machine_id for pool in found.pools), default=0) + 1
