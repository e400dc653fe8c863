"""Http ports for tests of the adapter, with answers from a script, and the adapter connected to them."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pytest

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, OfferId
from gpuproxy.ports import (
    Clock,
    Http,
    HttpNotSent,
    HttpReplyLost,
    HttpRequest,
    HttpResponse,
    ProviderSetup,
    VolumeOffer,
)
from gpuproxy.providers.vast.adapter import VastAi
from tests.markets import offer
from tests.virtual_time import VirtualClock, run_virtual

T = TypeVar("T")

KEY = "k3y-that-must-not-show"
UNLIMITED: Mapping[str, float] = dict.fromkeys(
    ("search", "list", "get", "destroy", "create", "user", "manage", "charges", "volumes"), 0.0
)
OFFER: Offer = offer(7654321)
LABEL = "gpx-aaaaaa-bbbbbbbb-01-cccccc"
VOLUME_OFFER = VolumeOffer(id=OfferId("vast-39209552"), machine_id="29575", max_gb=1302, price_month=Micro(66_700))
VOLUME = InstanceId("V.20118481")
SPEC = LaunchSpec(image="pytorch/pytorch:2.4.0", disk_gb=40.0)


class Script:
    """An Http port that gives the n-th answer to the n-th request. The last answer repeats. An exception is raised."""

    def __init__(self, *answers: HttpResponse | Exception | Callable[[HttpRequest], HttpResponse]) -> None:
        self.requests: list[HttpRequest] = []
        self._answers = answers

    async def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, HttpResponse) else answer(request)

    def sent(self, index: int = -1) -> Any:
        """The decoded body of a request."""
        return json.loads(self.requests[index].body or b"null")


class Inline:
    """Workers without threads."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        return work(*args)


def says(body: object, status: int = 200, **headers: str) -> HttpResponse:
    """An answer. Bytes and text are sent unchanged, anything else as JSON. `retry_after` is the header Retry-After."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpResponse(status=status, headers=named, body=raw)


def vast(http: Http, clock: Clock, *, key: str = KEY, base_url: str = "", **more: Any) -> VastAi:
    """The adapter on this Http port; by default without intervals."""
    more.setdefault("intervals", UNLIMITED)
    more.setdefault("workers", Inline())
    return VastAi(ProviderSetup(account="main", key=key, base_url=base_url, http=http, clock=clock, **more))


def on_script(use: Callable[[VastAi], Any], *answers: Any, **more: Any) -> tuple[Any, Script]:
    """Run `use(adapter)` with a script in virtual time. Returns its result, and the script with the requests."""
    script = Script(*answers)

    async def body(clock: VirtualClock) -> Any:
        return await use(vast(script, clock, **more))

    return run_virtual(body), script


async def found(adapter: VastAi, wanted: OfferFilter | None = None) -> list[Offer]:
    """All offers of a search, in the order of its pages."""
    wanted = wanted or OfferFilter(max_price=1000.0, verified_only=False)
    return [one async for page in adapter.search(wanted) for one in page]


def row(number: int, **facts: object) -> dict[str, object]:
    """A search row. `facts` replace its fields; the value `...` removes a field."""
    values: dict[str, object] = {
        "id": number,
        "ask_contract_id": number,
        "machine_id": 1000 + number,
        "host_id": 37070,
        "gpu_name": "RTX 4090",
        "num_gpus": 1,
        "gpu_frac": 0.5,
        "gpu_ids": [number],
        "gpu_ram": 24564,
        "dph_base": 0.4,
        "dph_total": 0.41,
        "storage_cost": 0.1,
        "disk_space": 500.0,
        "geolocation": "Texas, US",
        "reliability2": 0.99,
        "verification": "verified",
        "cuda_max_good": 12.8,
        "end_date": 1812007461.3,
        "rentable": True,
        "rented": False,
        "is_bid": False,
        "score": 10.0,
        "bundled_results": None,
    }
    return {name: value for name, value in (values | facts).items() if value is not ...}


def wire(number: int = 27182818, **facts: object) -> dict[str, object]:
    """A row of an instance. `facts` replace its fields; the value `...` removes a field."""
    values: dict[str, object] = {
        "id": number,
        "label": "gp-primary-7f3a",
        "machine_id": 29575,
        "actual_status": "running",
        "intended_status": "running",
        "cur_state": "running",
        "next_state": "running",
        "status_msg": "success, running pytorch/pytorch/ssh\n",
        "ssh_host": "ssh5.vast.ai",
        "ssh_port": 12818,
        "public_ipaddr": "198.51.100.12\n",
        "ports": {"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40080"}]},  # noqa: S104
        "start_date": 1780448379.47,
        "end_date": 1796246355.0,
        "num_gpus": 1,
        "gpu_name": "A100 SXM4",
        "dph_base": 0.7488446,
        "dph_total": 0.7525446,
        "storage_total_cost": 0.0037,
        "instance": {"gpuCostPerHour": 0.7488446, "diskHour": 0.0037, "totalHour": 0.7525446},
        "volume_info": [],
    }
    return {name: value for name, value in (values | facts).items() if value is not ...}


def page(*rows: object, token: str | None = None, total: int | None = None, **more: object) -> HttpResponse:
    """One page of a list of instances."""
    total = len(rows) if total is None else total
    return says({"success": True, "instances": rows, "next_token": token, "total_instances": total, **more})


def error_of(call: Any, answer: Any) -> tuple[ProviderError, Script]:
    """The error that a call raises for this answer, and the script with the requests."""
    script = Script(answer)

    async def use(clock: VirtualClock) -> None:
        await call(vast(script, clock))

    with pytest.raises(ProviderError) as raised:
        run_virtual(use)
    return raised.value, script


WRONG_ANSWERS = [
    says(""),
    says("[]"),
    says("null"),
    says('"text"'),
    says({}),
    says({"unexpected": True}),
    says({"offers": None, "volumes": None}),
    says({"offers": {}, "volumes": {}}),
    says("{"),
    says("<html>502</html>", 502),
    says("Internal Server Error", 500),
    HttpReplyLost("reset"),
    HttpNotSent("refused"),
]
"""Answers that are no answer to any read."""
