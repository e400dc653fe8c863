"""The control API on io.net's deployments and hosts, and both marketplaces at one port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.http_shell import RunningSandbox, serve
from tests.sandbox.ionet_shop import CAAS, HOUR, KEY, SSH_KEY, VM, IoShop

WEB = {"port": 8000, "protocol": "tcp", "whitelist": ["0.0.0.0/0"]}


def test_the_state_shows_a_deployment_and_all_requests() -> None:
    shop = IoShop()
    number = shop.booked()
    state = shop.control("GET", "state")
    assert state["instances"] == [
        {
            "provider": "io.net",
            "account": KEY,
            "id": number,
            "label": "gp-1",
            "status": "loading",
            "writer": False,
            "workload": False,
            "lock": "",
            "gpu_model": "GeForce RTX 4090",
            "num_gpus": 1,
            "machine_id": state["instances"][0]["machine_id"],
            "price_per_hour": 0.3,
            "volume_ids": [],
            "created_at": state["now"],
            "destroyed_at": None,
            "billed_micro_usd": 600_000,
            "fault": "",
            "ssh_addresses": [],
            "authorized_keys": [SSH_KEY],
            "product": "vm",
            "paid_micro_usd": 600_000,
            "refunded_micro_usd": 0,
            "booked_hours": 2,
            "ends_at": None,
        }
    ]
    assert (state["bill_micro_usd"], state["calls"]) == (600_000, {"io.net": {"create": 1}})


@pytest.mark.parametrize(
    ("how", "status", "shown", "ssh", "web"),
    [
        ("container", "failed", "failed", None, None),
        ("gpu", "running", "running", "ssh", "ill"),
        ("host", "running", "offline", None, None),
    ],
)
def test_each_way_to_die(how: str, status: str, shown: str, ssh: str | None, web: str | None) -> None:
    shop = IoShop()
    number = shop.running(network_services={"web": WEB})
    ports = shop.booking(number).ports[0]
    assert shop.control("POST", f"instances/{number}/kill", {"how": how}) == {"id": number, "status": shown}
    assert shop.detail(number)["status"] == status
    table = shop.sandbox.port_table.open
    assert (table.get(ports[""]), table.get(ports["web"])) == (ssh, web)


def test_a_lost_host_comes_back_and_its_time_goes_on() -> None:
    shop = IoShop()
    number = shop.running()
    shop.control("POST", f"instances/{number}/kill", {"how": "host"})
    shop.wait(600)
    host = shop.state(number)["machine_id"]
    assert shop.detail(number)["compute_minutes_served"] == 10
    shop.control("POST", f"machines/{host}/reconnect")
    assert shop.state(number)["ssh_addresses"]


def test_a_machine_is_mute_for_a_while() -> None:
    shop = IoShop()
    number = shop.running()
    shop.control("POST", f"instances/{number}/mute", {"seconds": 60})
    assert shop.state(number)["ssh_addresses"] == []
    assert shop.worker(number)["ssh_access"]
    shop.wait(61)
    assert shop.state(number)["ssh_addresses"]
    shop.control("POST", f"instances/{number}/mute", {"seconds": 0})
    shop.wait(HOUR / 2)
    assert shop.state(number)["ssh_addresses"] == []
    shop.control("POST", f"instances/{number}/unmute")
    assert shop.state(number)["ssh_addresses"]


def test_the_end_of_a_booking_can_be_moved() -> None:
    shop = IoShop()
    number = shop.running()
    shop.control("POST", f"instances/{number}/contract", {"ends_in_seconds": 30})
    shop.wait(30)
    assert shop.detail(number)["status"] == "completed"


@pytest.mark.parametrize(
    ("how", "status", "fault"),
    [
        ("host_fault", "failed", "host_fault"),
        ("no_ssh", "running", "no_ssh"),
        ("never_reachable", "running", "never_reachable"),
        ("never_ready", "deployment requested", "never_ready"),
    ],
)
def test_all_deployments_on_a_broken_host_fail(how: str, status: str, fault: str) -> None:
    shop = IoShop()
    hosts = [host.id for host in shop.sandbox.prepaid.hosts.values() if (host.kind, host.location) == (12, "US")]
    for host in hosts:
        shop.control("POST", f"machines/{host}/break", {"how": how})
    number = shop.booked()
    shop.wait(100)
    assert (shop.detail(number)["status"], shop.state(number)["fault"]) == (status, fault)
    assert set(shop.control("GET", "state")["broken_machines"]) == set(hosts)
    for host in hosts:
        shop.control("POST", f"machines/{host}/repair")
    assert shop.state(shop.running())["ssh_addresses"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("instances/6f1c0000-0000-4000-8000-000000000000/kill", {}, 404),
        ("instances/ID/kill", {"how": "outbid"}, 400),
        ("instances/ID/kill", {"how": "magic"}, 400),
        ("instances/ID/nonsense", {}, 400),
        ("instances/ID/contract", {"ends_in_seconds": 5}, 400),
        ("machines/no-such-host/occupy", {"gpus": 1}, 404),
        ("machines/12-US-1/ports", {"count": 0}, 400),
        ("machines/12-US-1/break", {"how": "magic"}, 400),
        ("offers/12__1", {"price_per_hour": -1}, 400),
    ],
)
def test_an_impossible_control_call_says_why(path: str, body: Any, status: int) -> None:
    shop = IoShop()
    number = shop.booked()
    answered, answer = shop.ask("POST", f"/sandbox/v1/{path.replace('ID', number)}", body, None)
    assert (answered, bool(answer["error"])) == (status, True)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[RunningSandbox, aiohttp.ClientSession]]:
    server = await serve(SandboxOptions(port=0, machines=8, boot_time=(30.0, 30.0), ionet_deploy_body="id"))
    try:
        async with aiohttp.ClientSession(server.url) as client:
            yield server, client
    finally:
        await server.stop()


async def sent(client: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    async with client.request(method, path, json=body, headers={"x-api-key": KEY}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_both_marketplaces_answer_at_one_port_and_a_machine_at_its_own() -> None:
    async with running() as (_, client):
        body = {"resource_private_name": "gp", "duration_hours": 1, "gpus_per_vm": 1, "hardware_id": 12}
        number = (await sent(client, "POST", f"{VM}/deploy", {**body, "network_services": {"web": WEB}}))[
            "deployment_id"
        ]
        async with client.get("/api/v0/users/current/", headers={"Authorization": f"Bearer {KEY}"}) as answer:
            assert answer.status == 200
        await sent(client, "POST", "/sandbox/v1/clock", {"advance_seconds": 60})
        [worker] = (await sent(client, "GET", f"{VM}/deployment/{number}/vms"))["data"]["workers"]
        port = int(worker["ssh_access"].rpartition(" ")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await reader.readline()).startswith(b"SSH-2.0-")
        writer.close()
        web = worker["network_services"]["web"]
        async with client.get(f"http://{web['public_ip']}:{web['public_port']}/") as answer:
            assert answer.status == 200
        await sent(client, "POST", "/sandbox/v1/clock", {"advance_seconds": 3600})
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_log_arrives_in_pieces_that_end_anywhere() -> None:
    async with running() as (_, client):
        config = {"replica_count": 1, "traffic_port": 8000}
        body = {"resource_private_name": "gp", "duration_hours": 1, "gpus_per_container": 8, "hardware_id": "203"}
        body |= {"container_config": config, "registry_config": {"image_url": "nginx"}}
        number = (await sent(client, "POST", f"{CAAS}/deploy", body))["deployment_id"]
        await sent(client, "POST", "/sandbox/v1/clock", {"advance_seconds": 60})
        [worker] = (await sent(client, "GET", f"{CAAS}/deployment/{number}/containers"))["data"]["workers"]
        path = f"{CAAS}/deployment/{number}/log/{worker['container_id']}"
        async with client.get(path, headers={"x-api-key": KEY}) as answer:
            pieces = [piece async for piece, _ in answer.content.iter_chunks()]
        assert max(len(piece) for piece in pieces) <= 7
        assert b"".join(pieces).endswith(b"event: complete\ndata: \n\n")
