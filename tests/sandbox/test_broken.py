"""Images, machines and instances that never work: what their rows show, and which instances are affected."""

from typing import Any

import pytest

from gpuproxy.sandbox.server.in_process import InProcessProbe
from tests.sandbox.shop import Shop

PULL = "Error response from daemon: pull access denied for me/secret, repository does not exist or may require"
SPACE = "no space left on device"


def _rented_on(shop: Shop, machine: int, **body: Any) -> int:
    free = next(chunk for chunk in shop.chunks(machine) if chunk["rentable"] and chunk["num_gpus"] == 1)
    return shop.rented(free["id"], **body)


def _fault(shop: Shop, contract: int) -> str:
    return next(row["fault"] for row in shop.state()["instances"] if row["id"] == str(contract))


@pytest.mark.parametrize(("fault", "text"), [("image_fault", PULL), ("host_fault", SPACE)])
def test_a_failing_create_succeeds_and_its_instance_never_runs_and_says_why(fault: str, text: str) -> None:
    shop = Shop()
    shop.arm("create", fault)
    failing = shop.rented(image="me/secret:1.2")
    fine = shop.rented(image="me/secret:1.2")
    assert (shop.get(failing)["actual_status"], shop.get(failing)["status_msg"]) == (None, None)
    for seconds in (10, 100_000):
        shop.wait(seconds)
        row = shop.get(failing)
        assert (row["actual_status"], row["cur_state"], row["intended_status"]) == ("created", "running", "running")
        assert text in row["status_msg"]
    assert shop.get(fine)["actual_status"] == "running"
    assert (_fault(shop, failing), _fault(shop, fine)) == (fault, "")


@pytest.mark.parametrize("fault", ["image_fault", "host_fault"])
def test_a_failing_instance_can_stay_in_loading_with_any_message(fault: str) -> None:
    shop = Shop()
    shop.arm("create", fault, args={"message": "toomanyrequests: rate limit", "status": "loading"})
    contract = shop.rented()
    shop.wait(20)
    row = shop.get(contract)
    assert (row["actual_status"], row["status_msg"]) == ("loading", "toomanyrequests: rate limit")


def test_a_failing_instance_can_be_stopped_at_once_and_then_has_no_gpus() -> None:
    shop = Shop()
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]
    shop.arm("create", "host_fault", args={"message": "OCI runtime create failed", "stopped": True})
    contract = shop.rented(offer["id"])
    row = shop.get(contract)
    assert (row["actual_status"], row["cur_state"], row["intended_status"]) == ("created", "stopped", "stopped")
    assert row["status_msg"] == "OCI runtime create failed"
    assert any(chunk["gpu_ids"] == offer["gpu_ids"] and chunk["rentable"] for chunk in shop.chunks(offer["machine_id"]))


def test_a_failing_instance_fails_again_when_it_is_started_again() -> None:
    shop = Shop()
    shop.arm("create", "image_fault")
    contract = shop.rented()
    shop.manage(contract, state="stopped")
    assert shop.get(contract)["actual_status"] == "exited"
    shop.manage(contract, state="running")
    shop.wait(1000)
    assert shop.get(contract)["actual_status"] == "created"


def test_the_daemons_log_says_why_too() -> None:
    shop = Shop()
    shop.arm("create", "image_fault", args={"message": "manifest unknown"})
    contract = shop.rented()
    path = f"/api/v0/instances/request_logs/{contract}/"
    url = shop.ask("PUT", path, {"daemon_logs": "true"})[1]["result_url"].removeprefix("http://x")
    shop.wait(2)
    assert "manifest unknown" in shop.ask("GET", url, key=None)[1]


def test_an_image_that_fails_does_so_on_every_machine_until_it_is_repaired() -> None:
    shop = Shop()
    assert shop.control("POST", "images", {"image": "me/secret"}) == {"images": ["me/secret"]}
    failing = [shop.rented(image="docker.io/me/secret:2") for _ in range(3)]
    fine = shop.rented(image="me/open")
    shop.wait(100)
    assert {shop.get(contract)["actual_status"] for contract in failing} == {"created"}
    assert len({shop.get(contract)["machine_id"] for contract in failing}) > 1
    assert shop.get(fine)["actual_status"] == "running"
    assert shop.state()["broken_images"] == ["me/secret"]
    assert shop.control("DELETE", "images") == {"cleared": 1}
    healed = shop.rented(image="docker.io/me/secret:2")
    shop.wait(100)
    assert shop.get(healed)["actual_status"] == "running"
    assert shop.get(failing[0])["actual_status"] == "created"


def test_one_image_is_repaired_by_its_text_and_others_go_on_failing() -> None:
    shop = Shop()
    for text in ("one", "two"):
        shop.control("POST", "images", {"image": text, "message": f"{text} is bad"})
    assert shop.control("DELETE", "images", {"image": "one"}) == {"cleared": 1}
    contract = shop.rented(image="two:3")
    shop.wait(100)
    assert shop.get(contract)["status_msg"] == "two is bad"


@pytest.mark.parametrize(
    ("how", "status", "fault"),
    [
        ("never_ready", "loading", "never_ready"),
        ("host_fault", "created", "host_fault"),
        ("no_ssh", "running", "no_ssh"),
    ],
)
def test_every_instance_of_a_broken_machine_fails_that_way_until_it_is_repaired(
    how: str, status: str, fault: str
) -> None:
    shop = Shop()
    machine = shop.machine(4)
    assert shop.control("POST", f"machines/{machine}/break", {"how": how}) == {"id": machine, "how": how}
    failing = [_rented_on(shop, machine) for _ in range(2)]
    shop.wait(1000)
    assert {shop.get(contract)["actual_status"] for contract in failing} == {status}
    assert {_fault(shop, contract) for contract in failing} == {fault}
    assert shop.state()["broken_machines"] == {str(machine): how}
    shop.control("POST", f"machines/{machine}/repair")
    healed = _rented_on(shop, machine)
    assert _fault(shop, healed) == ""
    assert shop.state()["broken_machines"] == {}


def test_a_machine_is_repaired_by_an_empty_how_and_others_are_not_affected() -> None:
    shop = Shop()
    machine = shop.machine(2)
    shop.control("POST", f"machines/{machine}/break", {"how": "host_fault", "message": "disk is full"})
    contract, elsewhere = _rented_on(shop, machine), _rented_on(shop, shop.machine(4))
    shop.control("POST", f"machines/{machine}/break", {"how": ""})
    healed = _rented_on(shop, machine)
    shop.wait(100)
    assert shop.get(contract)["status_msg"] == "disk is full"
    assert [shop.get(one)["actual_status"] for one in (elsewhere, healed)] == ["running", "running"]


async def test_without_ssh_an_instance_runs_and_its_ports_never_answer() -> None:
    shop = Shop()
    probe = InProcessProbe(shop.sandbox)
    shop.arm("create", "no_ssh")
    mute, fine = (shop.rented(runtype="ssh_direct", env={"-p 8000:8000": "1"}) for _ in range(2))
    shop.wait(5000)
    for contract, answers in ((mute, False), (fine, True)):
        row = shop.get(contract)
        assert row["actual_status"] == "running"
        mapped = {name: int(bound[0]["HostPort"]) for name, bound in row["ports"].items()}
        for port, kind in ((row["ssh_port"], "ssh"), (mapped["22/tcp"], "ssh"), (mapped["8000/tcp"], "tcp")):
            assert await probe.reachable(kind, "127.0.0.1", port, 1.0) is answers  # type: ignore[arg-type]


def test_gpus_of_an_instance_that_never_runs_cost_nothing() -> None:
    shop = Shop()
    shop.arm("create", "image_fault")
    contract = shop.rented(disk=72)
    shop.wait(3600)
    row = shop.get(contract)
    assert shop.state()["bill_micro_usd"] == pytest.approx(row["storage_cost"] * 72 / 720 * 1e6, abs=1)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("machines/5/break", {"how": "no_ssh"}, 404),
        ("machines/{machine}/break", {"how": "nonsense"}, 400),
        ("machines/{machine}/break", {}, 400),
        ("images", {}, 400),
        ("images", {"image": ""}, 400),
        ("images", {"image": 5}, 400),
    ],
)
def test_an_invalid_break_is_refused_with_a_reason(path: str, body: dict[str, Any], status: int) -> None:
    shop = Shop()
    address = f"/sandbox/v1/{path.format(machine=shop.machine(2))}"
    answered, answer = shop.ask("POST", address, body, key=None)
    assert (answered, bool(answer["error"])) == (status, True)
