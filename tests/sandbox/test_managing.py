"""Other calls on instances: bids, reboots, logs, bulk creates and launches."""

from typing import Any

import pytest

from gpuproxy.ports import HttpRequest
from tests.sandbox.shop import OTHER_KEY, Shop


def bid(shop: Shop, contract: int, price: float | None) -> tuple[int, Any]:
    return shop.ask("PUT", f"/api/v0/instances/bid_price/{contract}/", {"client_id": "me", "price": price})


def states(shop: Shop, contract: int) -> tuple[Any, Any]:
    row = shop.get(contract)
    return row["actual_status"], row["cur_state"]


def interruptible(shop: Shop) -> int:
    gpu = shop.search(num_gpus={"eq": 1}, type="bid", limit=1)[0]
    contract = shop.rented(gpu["id"], price=gpu["min_bid"])
    shop.wait(60)
    return contract


def test_a_bid_below_the_minimum_is_outbid_and_a_higher_one_resumes() -> None:
    shop = Shop()
    contract = interruptible(shop)
    assert bid(shop, contract, 0.001)[0] == 200
    assert states(shop, contract) == ("exited", "stopped")
    assert bid(shop, contract, None)[0] == 200
    shop.wait(60)
    assert states(shop, contract) == ("running", "running")


def test_a_higher_bid_does_not_start_an_instance_that_its_owner_stopped() -> None:
    shop = Shop()
    contract = interruptible(shop)
    shop.manage(contract, state="stopped")
    bid(shop, contract, 5.0)
    assert states(shop, contract) == ("exited", "stopped")


def test_an_instance_outbid_by_another_waits_for_the_gpus_whatever_its_bid() -> None:
    shop = Shop()
    contract = interruptible(shop)
    shop.control("POST", f"instances/{contract}/kill", {"how": "outbid"})
    bid(shop, contract, 5.0)
    assert states(shop, contract) == ("exited", "stopped")
    shop.control("POST", f"machines/{shop.get(contract)['machine_id']}/vacate")
    shop.wait(60)
    assert states(shop, contract) == ("running", "running")


@pytest.mark.parametrize("price", [0.0, 33, "x", True])
def test_an_invalid_bid_is_refused(price: Any) -> None:
    shop = Shop()
    contract = interruptible(shop)
    before = shop.get(contract)["dph_base"]
    assert bid(shop, contract, price)[0] == 400
    assert shop.get(contract)["dph_base"] == before


def test_a_new_bid_changes_the_price_from_then_on() -> None:
    shop = Shop()
    contract = interruptible(shop)
    shop.arm("price", "late_effect", args={"seconds": 90})
    shop.plan("PUT", f"/api/v0/instances/bid_price/{contract}/", {"price": 9.0})
    assert shop.get(contract)["dph_base"] < 9.0
    shop.wait(91)
    assert shop.get(contract)["dph_base"] == 9.0


def test_an_on_demand_instance_has_no_bid() -> None:
    shop = Shop()
    assert bid(shop, shop.rented(), 1.0)[0] == 400
    assert bid(shop, 5, 1.0)[0] == 404


@pytest.mark.parametrize(("call", "word"), [("reboot", "rebooting"), ("recycle", "recycling")])
def test_a_container_restarts_on_its_own_gpus(call: str, word: str) -> None:
    shop = Shop()
    contract = shop.rented()
    shop.wait(60)
    assert shop.ask("PUT", f"/api/v0/instances/{call}/{contract}/", {}) == (200, {"success": True})
    assert states(shop, contract) == (word, "running")
    shop.wait(60)
    assert states(shop, contract) == ("running", "running")


@pytest.mark.parametrize("call", ["reboot", "recycle"])
def test_an_instance_without_gpus_cannot_restart(call: str) -> None:
    shop = Shop()
    contract = shop.rented()
    shop.manage(contract, state="stopped")
    assert shop.ask("PUT", f"/api/v0/instances/{call}/{contract}/", {})[0] == 400
    assert shop.ask("PUT", f"/api/v0/instances/{call}/5/", {})[0] == 400
    assert shop.ask("PUT", f"/api/v0/instances/{call}/{contract}/", {}, OTHER_KEY)[0] == 400


def test_logs_are_at_the_returned_url_a_moment_later_and_nowhere_else() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.wait(60)
    status, answer = shop.ask("PUT", f"/api/v0/instances/request_logs/{contract}/", {"tail": "1"})
    url = answer["result_url"]
    assert (status, url.startswith("http://x/instance_logs/")) == (200, True)

    def read(address: str) -> tuple[int, bytes]:
        response = shop.sandbox.receive(HttpRequest(method="GET", url=address, headers={}, body=None)).response
        assert response is not None
        return response.status, response.body

    assert read(url)[0] == 404
    shop.wait(2)
    assert read(url)[0] == 200
    assert read(url)[1].endswith(b"sshd listens on port 22\n")
    assert read(url.replace(f"{contract}-", f"{contract}-0"))[0] == 404
    assert shop.ask("PUT", f"/api/v0/instances/request_logs/{contract}/", {}, OTHER_KEY)[0] == 404
    shop.destroy(contract)
    assert read(url)[0] == 404


def test_a_bulk_create_creates_what_it_can_and_reports_the_rest() -> None:
    shop = Shop()
    offers = [row["id"] for row in shop.search(num_gpus={"eq": 1}, limit=2)]
    status, answer = shop.ask("POST", "/api/v0/asks/bulk/", {"ids": [*offers, 5], "image": "x", "disk": 10})
    assert (status, answer["success"], len(answer["new_contracts"])) == (200, True, 2)
    assert [one["ask_id"] for one in answer["failed"]] == [5]
    assert len(shop.state()["instances"]) == 2


@pytest.mark.parametrize("ids", [None, [], ["x"], list(range(65))])
def test_a_bulk_create_of_nothing_or_too_much_is_refused(ids: Any) -> None:
    shop = Shop()
    assert shop.ask("POST", "/api/v0/asks/bulk/", {"ids": ids, "image": "x"})[0] == 400


def test_a_launch_rents_the_first_found_offer() -> None:
    shop = Shop()
    query = {"num_gpus": {"eq": "1"}, "order": [["dph_total", "asc"]], "limit": 3, "allocated_storage": 16.0}
    best = shop.search(**query)[0]
    status, answer = shop.ask("PUT", "/api/v0/launch_instance/", {"image": "x", "disk": 16, "q": query})
    assert (status, shop.get(answer["new_contract"])["machine_id"]) == (200, best["machine_id"])
    none = {"image": "x", "q": {"gpu_name": {"eq": "NONE"}}}
    assert shop.ask("PUT", "/api/v0/launch_instance/", none)[1]["error"] == "no_such_ask"
