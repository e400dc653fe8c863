"""io.net's adapter on an Http port that answers by path, with rows as io.net documents them."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import HttpRequest, HttpResponse, ProviderSetup
from gpuproxy.providers.ionet.adapter import IoNet
from gpuproxy.providers.ionet.capabilities import INTERVALS
from tests.providers.wires import KEY, Inline, says
from tests.virtual_time import VirtualClock, run_virtual

LABEL = "gpx-aaaaaa-bbbbbbbb-01-cccccc"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFak me"
SPEC = LaunchSpec(disk_gb=40.0, ssh_public_keys=(PUBLIC_KEY,))
ID = InstanceId("6f1c0000-0000-4000-8000-000000000001")
OTHER = InstanceId("6f1c0000-0000-4000-8000-000000000002")
UNLIMITED = dict.fromkeys(INTERVALS, 0.0)
Answer = HttpResponse | Exception | Callable[[HttpRequest], HttpResponse]


class Api:
    """An Http port that answers by call. Of several answers to one call, the last repeats. An exception is raised."""

    def __init__(self, **answers: Answer | list[Answer]) -> None:
        self.requests: list[HttpRequest] = []
        self._answers = {name: [*each] if isinstance(each, list) else [each] for name, each in answers.items()}

    async def send(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        answers = self._answers.get(call_of(request))
        assert answers, f"{request.method} {request.url} is not in the script"
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, HttpResponse) else answer(request)

    def calls(self) -> list[str]:
        """The names of the calls, in order."""
        return [call_of(request) for request in self.requests]

    def sent(self, name: str) -> Any:
        """The decoded body of the last request of a call."""
        return json.loads([each for each in self.requests if call_of(each) == name][-1].body or b"null")


def call_of(request: HttpRequest) -> str:
    """The name of a call."""
    path = request.url.partition("?")[0].partition("/vmaas/")[2]
    head, _, rest = path.partition("/")
    if head != "deployment":
        return {"hardware": "search", "deployments": "list", "deploy": "create"}.get(head, head)
    return {"extend": "extend", "vms": "vms"}.get(
        rest.partition("/")[2], "destroy" if request.method == "DELETE" else "get"
    )


def on_api(use: Callable[[IoNet], Any], api: Api, **more: Any) -> Any:
    """The result of `use(adapter)` in virtual time; by default without intervals."""

    async def body(clock: VirtualClock) -> Any:
        return await use(adapter(api, clock, **more))

    return run_virtual(body)


def adapter(api: Api, clock: VirtualClock, **more: Any) -> IoNet:
    """The adapter on this Http port."""
    values: dict[str, Any] = {"intervals": UNLIMITED, "workers": Inline(), "base_url": "", "key": KEY} | more
    return IoNet(ProviderSetup(account="main", http=api, clock=clock, **values))


def error_of(use: Callable[[IoNet], Any], api: Api, **more: Any) -> ProviderError:
    """The error that `use(adapter)` raises."""
    with pytest.raises(ProviderError) as raised:
        on_api(use, api, **more)
    return raised.value


async def found(provider: IoNet, **wanted: Any) -> list[Offer]:
    """All offers of a search."""
    asked = OfferFilter(**({"max_price": 1000.0} | wanted))
    return [one async for page in provider.search(asked) for one in page]


def hardware(*rows: object, bare: bool = False) -> HttpResponse:
    """A hardware list, in one of its two envelopes."""
    return says({"data": rows if bare else {"hardware": rows}})


def row(**facts: object) -> dict[str, object]:
    """The row of two RTX 4090 of the documentation. `facts` replace its fields; the value `...` removes a field."""
    values: dict[str, object] = {
        "id": "12__2", "deploy_id": 12, "name": "GeForce RTX 4090", "num_cards": 2, "supplier": "internal",
        "sold_out": False, "price": 0.6, "vram_per_card": 24, "interconnect": None, "nvlink": False, "storage": 1000,
        "vcpu": 39, "memory": 125, "location": "US",
    }  # fmt: skip
    return {name: value for name, value in (values | facts).items() if value is not ...}


def b200(location: str) -> dict[str, object]:
    """The row of eight B200 of the documentation."""
    return row(
        id=f"B200_sxm6x8__{location}", deploy_id="B200_sxm6x8", name="B200", num_cards=8, supplier="external",
        price=39.92, vram_per_card=192, interconnect="sxm6", nvlink=True, storage=22528, vcpu=208, memory=2900,
        location=location,
    )  # fmt: skip


def quote(total: float, **facts: object) -> HttpResponse:
    """A price for a whole booking."""
    return says({"data": {"replica_count": 1, "gpus_per_vm": 2, "total_cost_usdc": total, **facts}})


def listed(instance_id: str = ID, **facts: object) -> dict[str, object]:
    """A row of the listing."""
    values: dict[str, object] = {
        "id": instance_id, "status": "running", "name": LABEL, "completed_percent": 0, "hardware_quantity": 2,
        "brand_name": "NVIDIA", "hardware_name": "GeForce RTX 4090", "compute_minutes_served": 30,
        "compute_minutes_remaining": 90,
    }  # fmt: skip
    return {name: value for name, value in (values | facts).items() if value is not ...}


def page(*rows: object, total: int | None = None) -> HttpResponse:
    """A page of the listing."""
    total = len(rows) if total is None else total
    return says({"data": {"deployments": rows, "total": total, "statuses": ["running"]}})


def detail(instance_id: str = ID, **facts: object) -> HttpResponse:
    """A single read: it has what was paid, and no name."""
    values: dict[str, object] = {
        "id": instance_id, "status": "running", "created_at": "2030-01-01T00:00:00", "started_at": None,
        "finished_at": None, "amount_paid": 1.2, "total_gpus": 2, "gpus_per_vm": 2, "total_vms": 1,
        "hardware_name": "GeForce RTX 4090", "hardware_id": 12, "compute_minutes_served": 30,
        "compute_minutes_remaining": 90,
    }  # fmt: skip
    return says({"data": {name: value for name, value in (values | facts).items() if value is not ...}})


def vms(ssh: str | None = "ssh ubuntu@203.0.113.7 -p 30022", **facts: object) -> HttpResponse:
    """The machine of a deployment."""
    vm = {
        "device_id": "d", "vm_id": "vm-1", "hardware": "GeForce RTX 4090", "status": "running", "vm_events": [],
        "network_services": {}, "ssh_access": ssh, **facts,
    }  # fmt: skip
    return says({"data": {"total": 1, "workers": [vm]}})


def failed(status: int, text: str) -> HttpResponse:
    """A business failure."""
    return says({"status": "failed", "error": text}, status)


NOT_FOUND = failed(404, "Deployment not found")
EMPTY = says("")
EMPTY_PAGE = page()
