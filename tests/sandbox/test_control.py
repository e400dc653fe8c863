"""The control API: what it shows, and how it changes machines, offers and instances."""

import pytest

from tests.sandbox.shop import KEY, Shop


def test_the_state_shows_all_rentals_and_all_requests() -> None:
    shop = Shop()
    contract = shop.rented(label="mine")
    shop.ask("PUT", "/api/v0/asks/1/", {"image": "x"})
    state = shop.state()
    row = state["instances"][0]
    assert row == {
        "provider": "vast.ai",
        "account": KEY,
        "id": str(contract),
        "label": "mine",
        "status": "loading",
        "writer": False,
        "workload": False,
        "lock": "",
        "gpu_model": row["gpu_model"],
        "num_gpus": 1,
        "machine_id": row["machine_id"],
        "price_per_hour": row["price_per_hour"],
        "volume_ids": [],
        "created_at": state["now"],
        "destroyed_at": None,
        "billed_micro_usd": 0,
        "fault": "",
        "ssh_addresses": [],
        "authorized_keys": [],
    }
    assert state["volumes"] == []
    assert state["calls"] == {"vast.ai": {"search": 1, "create": 2}}


def test_moving_the_clock_runs_all_due_events() -> None:
    shop = Shop()
    contract = shop.rented()
    before = shop.state()["now"]
    assert shop.control("POST", "clock", {"advance_seconds": 3600})["now"] == before + 3600
    assert shop.get(contract)["actual_status"] == "running"


@pytest.mark.parametrize(
    ("how", "actual", "intended", "shown"),
    [
        ("container", "exited", "running", "exited"),
        ("gpu", "running", "running", "running"),
        ("host", "offline", "running", "offline"),
        ("outbid", "exited", "stopped", "stopped"),
    ],
)
def test_each_way_to_die_looks_as_it_does_on_the_real_service(how: str, actual: str, intended: str, shown: str) -> None:
    shop = Shop()
    contract = shop.rented()
    shop.wait(60)
    assert shop.control("POST", f"instances/{contract}/kill", {"how": how})["status"] == shown
    row = shop.get(contract)
    assert (row["actual_status"], row["intended_status"]) == (actual, intended)


def test_an_outbid_instance_cannot_start_until_the_other_customer_leaves() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.control("POST", f"instances/{contract}/kill", {"how": "outbid"})
    assert shop.manage(contract, state="running")[1]["success"] is False
    shop.control("POST", f"machines/{shop.get(contract)['machine_id']}/vacate")
    shop.wait(60)
    assert shop.get(contract)["actual_status"] == "running"


def test_nothing_of_a_lost_host_can_be_rented_until_it_is_back() -> None:
    shop = Shop()
    machine = shop.machine(2)
    contract = shop.rented(next(one["id"] for one in shop.chunks(machine) if one["num_gpus"] == 1))
    shop.control("POST", f"instances/{contract}/kill", {"how": "host"})
    assert shop.chunks(machine) == []
    shop.control("POST", f"machines/{machine}/reconnect")
    assert any(chunk["rentable"] for chunk in shop.chunks(machine))


def test_other_customers_take_gpus_and_leave_again() -> None:
    shop = Shop()
    machine = shop.machine(4)
    assert shop.control("POST", f"machines/{machine}/occupy", {"gpus": 3}) == {"gpus": 3}
    free = [chunk for chunk in shop.chunks(machine) if chunk["rentable"]]
    assert [chunk["num_gpus"] for chunk in free] == [1]
    assert shop.control("POST", f"machines/{machine}/occupy", {"gpus": 9}) == {"gpus": 1}
    assert shop.control("POST", f"machines/{machine}/vacate") == {"gpus": 0}
    assert all(chunk["rentable"] for chunk in shop.chunks(machine))


def test_a_price_moves() -> None:
    shop = Shop()
    offer = shop.search(limit=1)[0]["id"]
    shop.control("POST", f"offers/{offer}", {"price_per_hour": 1.25})
    assert shop.search(id={"eq": offer})[0]["dph_base"] == 1.25


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "instances/5/kill", {"how": "container"}, 404),
        ("POST", "machines/5/occupy", {"gpus": 1}, 404),
        ("POST", "offers/5", {"price_per_hour": 1}, 404),
        ("POST", "clock", {"advance_seconds": -1}, 400),
        ("POST", "clock", {}, 400),
        ("POST", "clock", b"{", 400),
        ("GET", "nonsense", None, 404),
        ("GET", "clock", None, 400),
    ],
)
def test_an_impossible_control_call_says_why(method: str, path: str, body: object, status: int) -> None:
    answered, answer = Shop().ask(method, f"/sandbox/v1/{path}", body, key=None)
    assert answered == status
    assert answer["error"]


def test_the_gpu_utilisation_of_a_row_is_high_until_a_call_sets_it_and_absent_while_nothing_runs() -> None:
    shop = Shop()
    contract = shop.rented()
    assert shop.get(contract)["gpu_util"] is None
    shop.wait(60)
    assert shop.get(contract)["gpu_util"] == 97.0
    for percent in (0, 3.5, None):
        shop.control("POST", f"instances/{contract}/gpu_util", {"percent": percent})
        assert shop.get(contract)["gpu_util"] == percent
    shop.manage(contract, state="stopped")
    assert shop.get(contract)["gpu_util"] is None
