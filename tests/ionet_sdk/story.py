"""Runs in the SDK's own environment: uses its public classes as a user would, and prints what they gave as JSON.

Usage: story.py URL KEY STORY. It imports nothing of this repository.
"""

import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

from iocloud import Client  # type: ignore[import-not-found]
from iocloud.errors import APIError  # type: ignore[import-not-found]

SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1vb24gYW5kIHN1bg me@home"


class Teller:
    """A client, and the control API of the market behind it."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.client = Client(api_key=key, base_url=url)

    def advance(self, seconds: float) -> None:
        """Move the market's clock."""
        data = json.dumps({"advance_seconds": seconds}).encode()
        request = urllib.request.Request(f"{self.url}/sandbox/v1/clock", data=data, method="POST")  # noqa: S310 - ours
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310 - ours


def market(teller: Teller) -> dict[str, Any]:
    """Hardware and quotes, of machines and of containers, without a key."""
    teller.client = Client(api_key=None, base_url=teller.url)
    client = teller.client
    rows = client.vms.hardware()
    request = client.vms.build_request(name="quote", gpu="12:2", hours=3)
    chosen = client.vms.build_request(name="quote", gpu="8H100.80S.176V", hours=2, location="FI")
    return {
        "ids": sorted({f"{type(row.deploy_id).__name__} {row.deploy_id}" for row in rows}),
        "cost": client.vms.quote(request).total_cost_usdc,
        "cost_of_named": client.vms.quote(chosen).total_cost_usdc,
        "gpus_of_named": chosen.gpus_per_vm,
        "containers": [row.hardware_name for row in client.hardware.list()],
        "container_cost": client.pricing.estimate(hardware_id="203", hours=2, location_ids=["US"]).total_cost_usdc,
    }


def machine(teller: Teller) -> dict[str, Any]:
    """The life of a virtual machine."""
    client = teller.client
    web = {"port": 8000, "protocol": "tcp", "whitelist": ["0.0.0.0/0"]}
    made = client.vms.deploy(
        name="sdk-vm", gpu="12:2", hours=2, location="US", ssh_keys={"me": SSH_KEY}, network_services={"web": web}
    )
    at_first = made.status.value
    teller.advance(120)
    made.wait(timeout=30, poll=0.1)
    [listed] = [one for one in client.vms.list(page_size=1) if one.id == made.id]
    [worker] = client.vms.workers(made.id)
    target = client.vms.ssh_target(made.id)
    paid = made.data.amount_paid
    extended = client.vms.extend(made.id, 1)
    client.vms.delete(made.id)
    ending = made.refresh().status.value
    teller.advance(60)
    return {
        "id": made.id,
        "at_first": at_first,
        "name": listed.name,
        "gpus": made.data.total_gpus,
        "paid": paid,
        "ssh": worker.ssh_access,
        "same_ssh": target,
        "service": worker.network_services["web"].model_dump(),
        "paid_with_extension": extended.data.amount_paid,
        "minutes": extended.data.compute_minutes_served + extended.data.compute_minutes_remaining,
        "ending": ending,
        "ended": made.refresh().status.value,
        "pools": client.node_pools.list(),
        "destroyed": [one.id for one in client.vms.list(status="destroyed")],
    }


def empty(teller: Teller) -> dict[str, Any]:
    """A deploy whose answer is empty, as the service's documentation has it. It is found by its name."""
    failed = ""
    try:
        teller.client.vms.deploy(name="sdk-empty", gpu="12:1", hours=1, location="US")
    except Exception as error:  # noqa: BLE001 - the class is pydantic's
        failed = type(error).__name__
    teller.advance(5)  # until lists have it
    return {"failed": failed, "found": [one.name for one in teller.client.vms.list() if one.name == "sdk-empty"]}


def container(teller: Teller) -> dict[str, Any]:
    """The life of two containers, and a log."""
    client = teller.client
    made = client.deployments.create(
        name="sdk-c", image="nginx:latest", gpu="203:8", hours=1, port=8080, location="US", env={"A": "1"}
    )
    teller.advance(120)
    made.wait(timeout=30, poll=0.1)
    [worker] = client.deployments.containers(made.id)
    lines = [line.text for line in client.deployments.logs(made.id)]
    client.deployments.update(made.id, env_variables={"A": "2"})
    env = made.refresh().data.container_config.env_variables
    extended = client.deployments.extend(made.id, 2)
    client.deployments.delete(made.id)
    teller.advance(60)
    return {
        "id": made.id,
        "url": worker.public_url,
        "lines": lines,
        "env": env,
        "paid": extended.data.amount_paid,
        "ended": made.refresh().status.value,
    }


def refusals(teller: Teller) -> dict[str, Any]:
    """The classes of errors that the SDK makes of the answers."""
    client = teller.client
    said = {}
    attempts: dict[str, Callable[[], Any]] = {
        "missing": lambda: client.vms.get("6f1c0000-0000-4000-8000-000000000000"),
        "hours": lambda: client.vms.deploy(name="x", gpu="12:1", hours=9000, location="US"),
        "sold_out": lambda: client.vms.deploy(name="x", gpu="8B300.240V", hours=1, location="FI"),
        "key": lambda: Client(api_key="wrong", base_url=teller.url).vms.list().first(),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except APIError as error:
            said[name] = [type(error).__name__, error.status_code, str(error)]
    return said


if __name__ == "__main__":
    told = {each.__name__: each for each in (market, machine, empty, container, refusals)}
    sys.stdout.write(json.dumps(told[sys.argv[3]](Teller(sys.argv[1], sys.argv[2]))))
