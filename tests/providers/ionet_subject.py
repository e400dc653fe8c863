"""The subject of the conformance suite: io.net's adapter on the sandbox."""

from dataclasses import replace

from gpuproxy.conformance import KnownRefusal, PrepaidFacts, Subject
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import AuthFailed, InsufficientFunds, InvalidRequest, NoCapacity, RateLimited
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import Clock, HttpRequest, HttpResponse
from gpuproxy.providers.ionet import DESCRIPTOR
from gpuproxy.sandbox.dialects.ionet import errors as said
from gpuproxy.sandbox.market.prepaid.bookings import ENDED
from gpuproxy.sandbox.options import DeployBody, SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessHttp
from gpuproxy.sandbox.world import Sandbox, build
from tests.providers.ionet_wires import PUBLIC_KEY, call_of

KEY = "sandbox-key"
REFUSALS = (
    KnownRefusal(answer=said.unauthorized(), error=AuthFailed),
    KnownRefusal(answer=said.no_credit(), error=InsufficientFunds),
    KnownRefusal(answer=said.no_capacity(400), error=NoCapacity),
    KnownRefusal(answer=said.no_capacity(409), error=NoCapacity),
    KnownRefusal(answer=said.failed(400, "Something else"), error=InvalidRequest),
    KnownRefusal(answer=said.detail(429, "Too many requests"), error=RateLimited),
)
_PAGE = 5


class SmallPages:
    """The Http port of a server that gives fewer rows on a page than were asked for."""

    def __init__(self, http: InProcessHttp) -> None:
        self._http = http

    async def send(self, request: HttpRequest) -> HttpResponse:
        return await self._http.send(replace(request, url=request.url.replace("page_size=100", f"page_size={_PAGE}")))


def subject(clock: Clock, *, deploy_body: DeployBody = "empty", lag: float = 0.0) -> Subject:
    """A new market and the adapter connected to it."""
    options = SandboxOptions(
        rate_limits="off", machines=4, accounts=(KEY,), ionet_deploy_body=deploy_body, ionet_lag=lag
    )
    sandbox = build(options, clock)

    def machines() -> dict[InstanceId, str]:
        sandbox.tick()
        live = (each for each in sandbox.prepaid.bookings.values() if each.stage not in ENDED)
        return {InstanceId(each.id): each.order.name for each in live}

    def spoil_row() -> None:
        args = {"kind": "no_id"}
        sandbox.faults.arm({"provider": "io.net", "call": "list", "fault": "odd_row", "times": 1, "args": args})

    return Subject(
        descriptor=DESCRIPTOR,
        key=KEY,
        http=SmallPages(InProcessHttp(sandbox)),
        clock=clock,
        is_create=lambda request: call_of(request) == "create",
        machines=machines,
        machines_for_pages=_PAGE + 1,
        is_page=lambda request: call_of(request) == "list",
        refusals=REFUSALS,
        error_with_id=_error_with_id,
        spoil_row=spoil_row,
        prepaid=PrepaidFacts(is_extend=lambda request: call_of(request) == "extend", hours=_hours(sandbox)),
        secret_env=False,
        spec=LaunchSpec(disk_gb=10, ssh_public_keys=(PUBLIC_KEY,)),
    )


def _hours(sandbox: Sandbox):
    return lambda instance_id: sandbox.prepaid.bookings[instance_id].hours


def _error_with_id(instance_id: InstanceId) -> HttpResponse:
    answer = said.failed(500, "The network could not be configured")
    return replace(answer, body=answer.body[:-1] + f', "deployment_id": "{instance_id}"}}'.encode())
