"""The first rows of shy instances: they misreport the instance; the market itself isn't affected."""

from typing import Any

import pytest

from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.in_process import InProcessProbe
from tests.sandbox.shop import Shop

STATES = ("actual_status", "intended_status", "cur_state", "next_state")
MODEL = "RTX 4090"


def _states(row: dict[str, Any]) -> tuple[object, ...]:
    return tuple(row[name] for name in STATES)


def _armed(fault: str, **args: Any) -> tuple[Shop, int]:
    """A shop, and a new RTX 4090 instance that the fault has hit."""
    shop = Shop()
    offer = shop.search(gpu_name={"eq": MODEL}, limit=1)[0]["id"]
    shop.arm("create", fault, args=args)
    return shop, shop.rented(offer)


def test_a_shy_row_shows_a_stopped_contract_for_forty_seconds_and_then_the_truth() -> None:
    shop, contract = _armed("shy_row")
    for seconds in (0, 20, 19):
        shop.wait(seconds)
        assert _states(shop.get(contract)) == ("exited", "stopped", "stopped", "stopped")
    shop.wait(1)
    assert _states(shop.get(contract)) == ("running",) * 4


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("exited", ("exited", "stopped", "stopped", "stopped")),
        ("stopped", ("stopped", "stopped", "stopped", "stopped")),
        ("null", (None, "running", "running", "running")),
    ],
)
def test_each_kind_of_shy_row_lasts_as_long_as_was_asked_for(status: str, shown: tuple[object, ...]) -> None:
    shop, contract = _armed("shy_row", seconds=15, status=status)
    shop.wait(14)
    assert _states(shop.get(contract)) == _states(shop.page()["instances"][0]) == shown
    shop.wait(1)
    assert _states(shop.get(contract)) == ("loading", "running", "running", "running")


async def test_a_shy_row_does_not_affect_running_billing_and_probes() -> None:
    shop, contract = _armed("shy_row", seconds=4000)
    honest, other = _armed("other_name", seconds=0)
    for one in (shop, honest):
        one.wait(3600)
    row, truth = shop.state()["instances"][0], honest.state()["instances"][0]
    assert row == truth
    assert (row["status"], row["billed_micro_usd"] > 0) == ("running", True)
    assert await InProcessProbe(shop.sandbox).reachable("ssh", "127.0.0.1", shop.get(contract)["ssh_port"], 1.0)
    assert honest.get(other)["actual_status"] == "running"


def test_a_shy_row_has_neither_ports_nor_a_message_that_it_runs() -> None:
    shop, contract = _armed("shy_row", seconds=100)
    shop.wait(60)
    row = shop.get(contract)
    assert ("ports" in row, row["status_msg"], row["uptime_mins"]) == (False, None, None)


def test_a_list_filters_by_what_the_rows_show() -> None:
    shop, contract = _armed("shy_row", seconds=100)
    shop.wait(60)
    assert shop.page(select_filters={"actual_status": {"in": ["running"]}})["instances"] == []
    shop.wait(60)
    shown = shop.page(select_filters={"actual_status": {"in": ["running"]}})["instances"]
    assert [row["id"] for row in shown] == [contract]


def test_a_stop_or_death_of_a_shy_instance_is_never_hidden() -> None:
    for how, actual in (("container", "exited"), ("host", "offline")):
        shop, contract = _armed("shy_row", seconds=1000)
        shop.wait(60)
        shop.control("POST", f"instances/{contract}/kill", {"how": how})
        assert _states(shop.get(contract)) == (actual, "running", "running", "running")


def test_another_gpu_name_is_shown_for_a_while_and_then_the_true_one() -> None:
    shop, contract = _armed("other_name", seconds=30)
    assert [shop.get(contract)["gpu_name"] for _ in range(2)] == ["RTX 4090 D"] * 2
    assert shop.state()["instances"][0]["gpu_model"] == MODEL
    shop.wait(30)
    assert shop.get(contract)["gpu_name"] == MODEL


def test_the_other_name_can_be_any_and_can_flip_with_each_read() -> None:
    shop, contract = _armed("other_name", gpu_name="RTX 4080", flip=True)
    names = [shop.get(contract)["gpu_name"], shop.page()["instances"][0]["gpu_name"], shop.get(contract)["gpu_name"]]
    assert names == ["RTX 4080", MODEL, "RTX 4080"]
    shop.wait(40)
    assert {shop.get(contract)["gpu_name"] for _ in range(4)} == {MODEL}


def _first_rows(share: float, **options: Any) -> list[tuple[object, ...]]:
    shop = Shop(machines=300, misreport_share=share, **options)
    offers = shop.search(num_gpus={"eq": 1}, limit=100)
    contracts = [shop.rented(offer["id"]) for offer in offers]
    shop.wait(9.9)  # less than a quarter of 40 s: no shy row is over, and nothing runs yet
    shown = [shop.get(contract) for contract in contracts]
    names = [row["gpu_name"] == offer["gpu_name"] for row, offer in zip(shown, offers, strict=True)]
    return [(*_states(row), name) for row, name in zip(shown, names, strict=True)]


LOADING = ("loading", "running", "running", "running", True)


def test_the_requested_share_of_new_instances_is_shy_in_all_ways() -> None:
    rows = _first_rows(0.25)
    odd = [row for row in rows if row != LOADING]
    assert 10 <= len(odd) <= 40
    assert {
        ("exited", "stopped", "stopped", "stopped", True),
        (None, "running", "running", "running", True),
        ("loading", "running", "running", "running", False),
    } <= set(odd)


def test_no_instance_is_shy_at_share_zero_and_all_are_at_share_one() -> None:
    assert set(_first_rows(0.0)) == {LOADING}
    assert set(_first_rows(SandboxOptions().misreport_share)) == {LOADING}
    assert LOADING not in _first_rows(1.0)


def test_the_same_seed_makes_the_same_instances_shy_and_another_seed_makes_others() -> None:
    assert _first_rows(0.25) == _first_rows(0.25)
    assert _first_rows(0.25) != _first_rows(0.25, seed=8)


def test_a_larger_share_adds_shy_instances_and_changes_none() -> None:
    few, many = _first_rows(0.2), _first_rows(0.6)
    assert all(row in (LOADING, more) for row, more in zip(few, many, strict=True))
    assert few != many


def test_after_the_longest_time_no_row_is_shy() -> None:
    shop = Shop(misreport_share=1.0, misreport_seconds=50.0)
    contracts = [shop.rented() for _ in range(20)]
    shop.wait(50)
    assert {_states(shop.get(contract)) for contract in contracts} == {("running",) * 4}
