"""A sandbox without sockets, on a clock that moves only when a test says so."""

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from gpuproxy.ports import HttpRequest
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.plan import Plan
from gpuproxy.sandbox.world import build

START = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)
KEY, OTHER_KEY = "sandbox-key", "sandbox-key-2"


class HandClock:
    """The Clock port; time passes by `pass_`, and by sleeping."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        raise NotImplementedError


class Shop:
    """One sandbox and its clock. Options are those of SandboxOptions; limits are off unless a test wants them."""

    def __init__(self, **options: Any) -> None:
        self.clock = HandClock()
        self.options = SandboxOptions(**({"rate_limits": "off", "machines": 120, "boot_time": (30.0, 30.0)} | options))
        self.sandbox = build(self.options, self.clock)

    def reopened(self) -> "Shop":
        """The sandbox after a kill, restored from its state file."""
        again = Shop.__new__(Shop)
        again.clock, again.options = self.clock, self.options
        again.sandbox = build(self.options, self.clock)
        return again

    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    def plan(self, method: str, path: str, body: Any = None, key: str | None = KEY) -> Plan:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.sandbox.receive(HttpRequest(method=method, url=f"http://x{path}", headers=headers, body=data))

    def ask(self, method: str, path: str, body: Any = None, key: str | None = KEY) -> tuple[int, Any]:
        """(status, body); a JSON body is decoded."""
        response = self.plan(method, path, body, key).response
        assert response is not None
        is_json = response.headers["content-type"] == "application/json"
        return response.status, json.loads(response.body) if is_json else response.body.decode()

    def control(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.ask(method, f"/sandbox/v1/{path}", body, key=None)
        assert status == 200, answer
        return answer

    def search(self, key: str | None = KEY, **query: Any) -> list[dict[str, Any]]:
        status, answer = self.ask("POST", "/api/v0/bundles/", query, key)
        assert status == 200, answer
        offers: list[dict[str, Any]] = answer["offers"]
        return offers

    def chunks(self, machine_id: int) -> list[dict[str, Any]]:
        """All offers of a machine, rentable or not."""
        return self.search(machine_id={"eq": machine_id}, rentable="any", verified="any", disable_bundling=True)

    def create(self, offer_id: int, key: str = KEY, **body: Any) -> tuple[int, Any]:
        return self.ask("PUT", f"/api/v0/asks/{offer_id}/", {"image": "pytorch/pytorch", "disk": 20, **body}, key)

    def rented(self, offer_id: int | None = None, key: str = KEY, **body: Any) -> int:
        """The contract id of a new instance, by default on the best one-GPU offer."""
        if offer_id is None:
            offer_id = self.search(num_gpus={"eq": 1}, limit=1)[0]["id"]
        status, answer = self.create(offer_id, key, **body)
        assert status == 200, answer
        contract: int = answer["new_contract"]
        return contract

    def manage(self, contract: int, key: str = KEY, **body: Any) -> tuple[int, Any]:
        return self.ask("PUT", f"/api/v0/instances/{contract}/", body, key)

    def destroy(self, contract: int, key: str = KEY) -> tuple[int, Any]:
        return self.ask("DELETE", f"/api/v0/instances/{contract}/", {}, key)

    def get(self, contract: int, key: str = KEY) -> Any:
        status, answer = self.ask("GET", f"/api/v0/instances/{contract}/?owner=me", key=key)
        assert status == 200, answer
        return answer["instances"]

    def page(self, key: str = KEY, **query: Any) -> Any:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        status, answer = self.ask("GET", f"/api/v1/instances/?{urlencode(texts)}", key=key)
        assert status == 200, answer
        return answer

    def pages(self, **query: Any) -> Iterator[Any]:
        page = self.page(**query)
        yield page
        while token := page["next_token"]:
            page = self.page(**query, after_token=token)
            yield page

    def state(self) -> Any:
        return self.control("GET", "state")

    def arm(self, call: str, fault: str, **more: Any) -> None:
        self.control("POST", "faults", {"provider": "vast.ai", "call": call, "fault": fault, **more})

    def machine(self, gpus: int) -> int:
        """A free machine whose smallest chunk is one GPU."""
        for machine in self.sandbox.market.machines.values():
            singles = [chunk for chunk in machine.chunks if chunk.gpus == 1]
            if machine.gpus == gpus and len(singles) == gpus and not machine.held:
                return machine.id
        raise AssertionError(f"no free machine of {gpus} GPUs")
