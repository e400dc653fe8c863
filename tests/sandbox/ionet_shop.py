"""io.net's market without sockets, on a clock that moves only when a test says so."""

import json
from typing import Any
from urllib.parse import quote, urlencode

from gpuproxy.ports import HttpRequest, HttpResponse
from gpuproxy.sandbox.market.prepaid.bookings import Booking
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.world import build
from tests.sandbox.shop import KEY, HandClock, Shop

VM, CAAS = "/enterprise/v1/io-cloud/vmaas", "/enterprise/v1/io-cloud/caas"
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1vb24gYW5kIHN1bg me@home"
HOUR = 3600.0


class IoShop:
    """One sandbox and its clock. Options are those of SandboxOptions; limits are off unless a test wants them."""

    def __init__(self, **options: Any) -> None:
        self.clock = HandClock()
        chosen: dict[str, Any] = {"rate_limits": "off", "machines": 8, "boot_time": (30.0, 30.0)}
        self.options = SandboxOptions(**(chosen | {"ionet_deploy_body": "id"} | options))
        self.sandbox = build(self.options, self.clock)

    def reopened(self) -> "IoShop":
        """The sandbox after a kill, restored from its state file."""
        again = IoShop.__new__(IoShop)
        again.clock, again.options = self.clock, self.options
        again.sandbox = build(self.options, self.clock)
        return again

    wait = Shop.wait

    def response(self, method: str, path: str, body: Any = None, key: str | None = KEY) -> HttpResponse:
        headers = {} if key is None else {"X-Api-Key": key}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        plan = self.sandbox.receive(HttpRequest(method=method, url=f"http://x{path}", headers=headers, body=data))
        assert plan.response is not None
        return plan.response

    def ask(self, method: str, path: str, body: Any = None, key: str | None = KEY, **query: Any) -> tuple[int, Any]:
        """(status, body); a JSON body is decoded."""
        path += f"?{urlencode(query, quote_via=quote)}" if query else ""
        response = self.response(method, path, body, key)
        is_json = response.headers["content-type"] == "application/json" and response.body
        return response.status, json.loads(response.body) if is_json else response.body.decode()

    def data(self, method: str, path: str, body: Any = None, key: str = KEY, **query: Any) -> Any:
        """What is wrapped in a successful answer."""
        status, answer = self.ask(method, path, body, key, **query)
        assert status == 200, answer
        assert set(answer) == {"data"}
        return answer["data"]

    def control(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.ask(method, f"/sandbox/v1/{path}", body, key=None)
        assert status == 200, answer
        return answer

    def arm(self, call: str, fault: str, **more: Any) -> None:
        self.control("POST", "faults", {"provider": "io.net", "call": call, "fault": fault, **more})

    def state(self, number: str) -> Any:
        """The row of one deployment in the state."""
        return next(row for row in self.control("GET", "state")["instances"] if row["id"] == number)

    def deploy(self, key: str = KEY, **more: Any) -> tuple[int, Any]:
        """Deploy a virtual machine; None removes a field."""
        body = {"resource_private_name": "gp-1", "duration_hours": 2, "gpus_per_vm": 1, "hardware_id": 12}
        body |= {"location_ids": ["US"], "ssh_keys": {"gp": SSH_KEY}, "vm_image_type": "general"}
        return self.ask("POST", f"{VM}/deploy", _without_none(body | more), key)

    def booked(self, key: str = KEY, **more: Any) -> str:
        """The id of a new virtual machine."""
        status, answer = self.deploy(key, **more)
        assert status == 200, answer
        number: str = answer["deployment_id"]
        return number

    def running(self, **more: Any) -> str:
        """The id of a virtual machine that runs and can be reached. It has run for 20 s."""
        number = self.booked(**more)
        self.wait(50)
        self.sandbox.tick()
        return number

    def container(self, **more: Any) -> tuple[int, Any]:
        """Deploy containers; None removes a field."""
        body = {"resource_private_name": "gp-c", "hardware_id": "203", "duration_hours": 1, "gpus_per_container": 8}
        config = {"replica_count": 1, "traffic_port": 8000, "env_variables": {}, "secret_env_variables": {}}
        body |= {"container_config": config, "registry_config": {"image_url": "nginx:latest"}, "location_ids": ["US"]}
        return self.ask("POST", f"{CAAS}/deploy", _without_none(body | more))

    def detail(self, number: str, product: str = VM) -> Any:
        return self.data("GET", f"{product}/deployment/{number}")

    def listed(self, product: str = VM, **query: Any) -> list[Any]:
        rows: list[Any] = self.data("GET", f"{product}/deployments", **query)["deployments"]
        return rows

    def worker(self, number: str) -> Any:
        return self.data("GET", f"{VM}/deployment/{number}/vms")["workers"][0]

    def hardware(self) -> list[Any]:
        rows: list[Any] = self.data("GET", f"{VM}/hardware")["hardware"]
        return rows

    def booking(self, number: str) -> Booking:
        return self.sandbox.prepaid.bookings[number]

    def statuses(self, number: str, seconds: float, step: float = 1.0) -> list[str]:
        """The statuses that a deployment has one after the other."""
        seen: list[str] = []
        for _ in range(int(seconds / step)):
            status = self.detail(number)["status"]
            seen += [] if seen[-1:] == [status] else [status]
            self.wait(step)
        return seen


def places(answer: Any) -> list[list[Any]]:
    """The places of the problems in a 422."""
    return [problem["loc"] for problem in answer["detail"]]


def _without_none(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}
