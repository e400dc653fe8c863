"""Stops and starts: queued starts come by themselves, on which GPUs, and how each situation looks in rows."""

from typing import Any

import pytest

from gpuproxy.sandbox.server.in_process import InProcessProbe
from tests.sandbox.shop import Shop
from tests.sandbox.test_volumes import deleted, linked, listed, made

STATES = ("actual_status", "intended_status", "cur_state", "next_state")
UP = ["running"] * 4
STOPPED = ["exited", "stopped", "stopped", "stopped"]
QUEUED = ["exited", "running", "stopped", "running"]


def states(shop: Shop, contract: int) -> list[Any]:
    row = shop.get(contract)
    return [row[name] for name in STATES]


def singles(shop: Shop, machine: int) -> list[int]:
    """The rentable offers of one GPU of a machine."""
    return [each["id"] for each in shop.chunks(machine) if each["rentable"] and each["num_gpus"] == 1]


def running(shop: Shop, machine: int, **body: Any) -> int:
    contract = shop.rented(singles(shop, machine)[0], **body)
    shop.wait(31)
    return contract


def test_each_situation_looks_as_it_is_recorded() -> None:
    shop = Shop()
    machine = shop.machine(2)
    contract = running(shop, machine)
    assert states(shop, contract) == UP
    shop.manage(contract, state="stopped")
    assert states(shop, contract) == STOPPED
    shop.control("POST", f"machines/{machine}/occupy", {"gpus": 2})
    shop.manage(contract, state="running")
    assert states(shop, contract) == QUEUED
    shop.control("POST", f"machines/{machine}/vacate")
    assert states(shop, contract) == ["exited", "running", "running", "running"]
    shop.wait(20)
    assert states(shop, contract) == ["loading", "running", "running", "running"]
    shop.wait(20)
    shop.control("POST", f"instances/{contract}/kill", {"how": "gpu"})
    assert states(shop, contract) == UP
    shop.control("POST", f"instances/{contract}/kill", {"how": "container"})
    assert states(shop, contract) == ["exited", "running", "running", "running"]
    shop.control("POST", f"instances/{contract}/kill", {"how": "host"})
    assert states(shop, contract) == ["offline", "running", "running", "running"]
    shop.control("POST", f"machines/{machine}/reconnect")
    assert states(shop, contract) == ["exited", "running", "running", "running"]


def test_a_refused_start_is_queued_and_comes_by_itself_and_bills() -> None:
    shop = Shop()
    machine = shop.machine(2)
    contract = running(shop, machine)
    shop.manage(contract, state="stopped")
    shop.arm("start", "start_refused", args={"seconds": 500})
    status, answer = shop.manage(contract, state="running")
    assert (status, answer["success"], answer["error"]) == (200, False, "resources_unavailable")
    shop.wait(499)
    assert states(shop, contract) == QUEUED
    bill = shop.state()["bill_micro_usd"]
    shop.wait(32)
    assert states(shop, contract) == UP
    shop.wait(3600)
    assert shop.state()["bill_micro_usd"] - bill > shop.get(contract)["dph_base"] * 1e6


def test_a_stop_cancels_a_queued_start() -> None:
    shop = Shop()
    machine = shop.machine(2)
    contract = running(shop, machine)
    shop.manage(contract, state="stopped")
    shop.control("POST", f"machines/{machine}/occupy", {"gpus": 2})
    shop.manage(contract, state="running")
    shop.manage(contract, state="stopped")
    shop.control("POST", f"machines/{machine}/vacate")
    shop.wait(3600)
    assert states(shop, contract) == STOPPED


@pytest.mark.parametrize(("binding", "starts"), [("chunk", False), ("any", True)])
def test_a_stopped_instance_starts_on_other_gpus_only_where_it_is_not_bound_to_its_own(
    binding: str, starts: bool
) -> None:
    shop = Shop(standby_binding=binding)
    machine = shop.machine(2)
    offer = singles(shop, machine)[0]
    contract = shop.rented(offer)
    shop.wait(31)
    gpus = shop.sandbox.market.instances[contract].mask
    shop.manage(contract, state="stopped")
    stranger = next(chunk.offer_id for chunk in shop.sandbox.market.machines[machine].chunks if chunk.mask == gpus)
    shop.rented(stranger)
    assert shop.manage(contract, state="running")[1]["success"] is starts
    shop.wait(31)
    assert states(shop, contract) == (UP if starts else QUEUED)
    assert len(singles(shop, machine)) == (0 if starts else 1)


def test_with_any_binding_a_start_without_a_free_chunk_of_its_size_is_still_queued() -> None:
    shop = Shop(standby_binding="any")
    machine = shop.machine(2)
    contract = running(shop, machine)
    shop.manage(contract, state="stopped")
    shop.control("POST", f"machines/{machine}/occupy", {"gpus": 2})
    assert shop.manage(contract, state="running")[1]["success"] is False
    shop.control("POST", f"machines/{machine}/vacate")
    shop.wait(31)
    assert states(shop, contract) == UP


def test_a_stopped_create_needs_free_gpus_holds_none_and_never_runs_by_itself() -> None:
    shop = Shop()
    machine = shop.machine(2)
    volume = made(shop, shop.chunks(machine)[0])
    offer = singles(shop, machine)[0]
    contract = shop.rented(offer, target_state="stopped", **linked(volume))
    assert len(singles(shop, machine)) == 2
    shop.wait(99_999)
    assert states(shop, contract) == STOPPED
    assert listed(shop)[0]["instances"] == [contract]
    row = next(each for each in shop.state()["instances"] if each["id"] == str(contract))
    assert row["billed_micro_usd"] > 0
    taken = singles(shop, machine)[0]
    shop.control("POST", f"machines/{machine}/occupy", {"gpus": 2})
    assert shop.create(taken, target_state="stopped", cancel_unavail=True)[0] == 410


@pytest.mark.parametrize("fault", ["status_500_after", "hang_after", "reset_after"])
def test_a_start_without_an_answer_starts_the_instance(fault: str) -> None:
    shop = Shop()
    contract = running(shop, shop.machine(2))
    shop.manage(contract, state="stopped")
    shop.arm("start", fault)
    shop.plan("PUT", f"/api/v0/instances/{contract}/", {"state": "running"})
    shop.wait(31)
    assert states(shop, contract) == UP


def test_an_ignored_stop_is_answered_and_changes_nothing() -> None:
    shop = Shop()
    contract = running(shop, shop.machine(2))
    shop.arm("stop", "stop_ignored")
    assert shop.manage(contract, state="stopped") == (200, {"success": True})
    assert states(shop, contract) == UP


async def answers(shop: Shop, contract: int) -> dict[str, list[str]]:
    """Which kinds of probe each address answers."""
    row, probe = shop.get(contract), InProcessProbe(shop.sandbox)
    ports = {"proxy": row["ssh_port"]} | {name: int(at[0]["HostPort"]) for name, at in row["ports"].items()}
    kinds = ("tcp", "ssh", "http")
    return {
        name: [kind for kind in kinds if await probe.reachable(kind, "127.0.0.1", port, 1.0, path="/health")]  # type: ignore[arg-type]
        for name, port in ports.items()
    }


async def test_a_muted_instance_is_silent_and_comes_back() -> None:
    shop = Shop()
    contract = running(shop, shop.machine(2), runtype="ssh_direc ssh_proxy", env={"-p 8000:8000": "1"})
    heard = {"proxy": ["tcp", "ssh"], "22/tcp": ["tcp", "ssh"], "8000/tcp": ["tcp", "http"]}
    silent: dict[str, list[str]] = {name: [] for name in heard}
    assert await answers(shop, contract) == heard
    shop.control("POST", f"instances/{contract}/mute", {"seconds": 6})
    assert await answers(shop, contract) == silent
    assert states(shop, contract) == UP
    shop.wait(7)
    assert await answers(shop, contract) == heard
    shop.control("POST", f"instances/{contract}/mute", {"seconds": 0})
    shop.wait(99_999)
    assert await answers(shop, contract) == silent
    shop.control("POST", f"instances/{contract}/unmute")
    assert await answers(shop, contract) == heard


async def test_a_failed_gpu_is_seen_by_http_alone_until_it_is_repaired() -> None:
    shop = Shop()
    machine = shop.machine(2)
    contract, other = (
        running(shop, machine, runtype="ssh_direc ssh_proxy", env={"-p 8000:8000": "1"}) for _ in range(2)
    )
    shop.control("POST", f"instances/{contract}/kill", {"how": "gpu"})
    assert await answers(shop, contract) == {"proxy": ["tcp", "ssh"], "22/tcp": ["tcp", "ssh"], "8000/tcp": ["tcp"]}
    assert (await answers(shop, other))["8000/tcp"] == ["tcp", "http"]
    shop.control("POST", f"machines/{machine}/repair")
    assert (await answers(shop, contract))["8000/tcp"] == ["tcp", "http"]


@pytest.mark.parametrize("body", [{}, {"seconds": -1}, {"seconds": "x"}])
def test_a_mute_needs_seconds(body: dict[str, Any]) -> None:
    shop = Shop()
    contract = running(shop, shop.machine(2))
    status, answer = shop.ask("POST", f"/sandbox/v1/instances/{contract}/mute", body, key=None)
    assert (status, "seconds" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("fault", "made_volumes"),
    [
        ("status_500_before", 0),
        ("status_500_after", 1),
        ("hang_before", 0),
        ("hang_after", 1),
        ("reset_before", 0),
        ("reset_after", 1),
        ("refuse_connection", 0),
        ("refused_200", 0),
        ("rate_limited", 0),
        ("auth_error", 0),
        ("malformed_json", 1),
        ("empty_body", 1),
        ("truncated", 1),
        ("html_502", 0),
        ("offer_gone", 0),
        ("insufficient_credit", 0),
    ],
)
def test_a_volume_create_fails_in_every_way_before_or_after_its_effect(fault: str, made_volumes: int) -> None:
    shop = Shop()
    offer = shop.chunks(shop.machine(2))[0]
    shop.arm("volume_create", fault)
    plan = shop.plan("PUT", "/api/v0/volumes/", {"id": offer["avail_vol_ask_id"], "size": 20})
    assert plan.delivery != "answer" or plan.response is not None
    assert len(shop.state()["volumes"]) == made_volumes
    assert made(shop, offer) > 0  # the next one works


def test_a_late_volume_comes_after_its_time() -> None:
    shop = Shop()
    offer = shop.chunks(shop.machine(2))[0]
    shop.arm("volume_create", "late_effect", args={"seconds": 50})
    shop.plan("PUT", "/api/v0/volumes/", {"id": offer["avail_vol_ask_id"], "size": 20})
    assert shop.state()["volumes"] == []
    shop.wait(51)
    assert len(shop.state()["volumes"]) == 1


def test_without_sharing_a_volume_is_free_for_another_instance_a_while_after_its_last_one() -> None:
    shop = Shop(volume_sharing="refuse")
    machine = shop.machine(2)
    volume = made(shop, shop.chunks(machine)[0])
    contract = running(shop, machine, **linked(volume))
    shop.manage(contract, state="stopped")
    status, answer = shop.create(singles(shop, machine)[0], **linked(volume))
    assert (status, "attached to another instance" in answer["msg"]) == (400, True)
    shop.destroy(contract)
    assert shop.create(singles(shop, machine)[0], **linked(volume))[0] == 400
    assert deleted(shop, volume)[0] == 400
    shop.wait(31)
    running(shop, machine, **linked(volume))
    assert shop.state()["volumes"][0]["most_writers"] == 1
