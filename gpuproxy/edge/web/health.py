"""The page Health: the state of the service, its findings, marketplace accounts, reconcile passes, webhooks, load."""

from aiohttp import web

from gpuproxy.edge.web.rendering import given
from gpuproxy.edge.web.visits import ROOT, Visit
from gpuproxy.v1 import gpuproxy_pb2 as pb

_MOST = 100
"""Hosts in the table of load."""


async def page(visit: Visit) -> web.Response:
    """The page. Only an admin sees findings, passes and deliveries, because they are of all projects."""
    is_admin, metadata = visit.caller.role == "admin", visit.session.metadata
    load = await visit.call(pb.GetLoadInfoRequest(), pb.GetLoadInfoResponse)
    return visit.page(
        "health.html",
        health=await visit.call(pb.HealthCheckRequest(), pb.HealthCheckResponse),
        providers=(await visit.call(pb.ListProvidersRequest(), pb.ListProvidersResponse)).providers,
        findings=await visit.site.calls.findings(metadata) if is_admin else None,
        passes=await visit.site.calls.passes(metadata) if is_admin else (),
        webhooks=await visit.site.calls.webhooks(metadata) if is_admin else None,
        load=load,
        servers=load.server_load[:_MOST],
        strategy=await visit.call(pb.GetLoadBalancerStrategyRequest(), pb.GetLoadBalancerStrategyResponse),
        given=given,
    )


async def strategy(visit: Visit) -> web.Response:
    """Set the project's strategy."""
    request = pb.SetLoadBalancerStrategyRequest(strategy=visit.form.get("strategy", ""))
    await visit.call(request, pb.SetLoadBalancerStrategyResponse)
    return visit.to(f"{ROOT}health")
