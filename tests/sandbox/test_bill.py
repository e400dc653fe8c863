"""Bills: GPUs per second while running, disk per second while existing, exact to the micro-dollar."""

from typing import Any

import pytest

from tests.sandbox.shop import KEY, Shop

OFFER_PRICE = 360_000  # micro-dollars per hour: 100 a second


def _priced(shop: Shop) -> dict[str, Any]:
    """A one-GPU offer at a price that divides well."""
    offer = shop.search(num_gpus={"eq": 1}, limit=1)[0]
    shop.control("POST", f"offers/{offer['id']}", {"price_per_hour": OFFER_PRICE / 1e6})
    return shop.search(id={"eq": offer["id"]})[0]


def _disk(offer: dict[str, Any], seconds: float, gigabytes: int = 20) -> float:
    return float(offer["storage_cost"]) * 1e6 * gigabytes * seconds / 720 / 3600


def test_gpus_are_billed_only_while_it_runs_and_disk_while_it_exists() -> None:
    shop = Shop()
    offer = _priced(shop)
    contract = shop.rented(offer["id"])
    for seconds, change in ((30 + 1000, {"state": "stopped"}), (500, {"state": "running"}), (30 + 200, None)):
        shop.wait(seconds)
        if change:
            shop.manage(contract, **change)
    expected = 100 * 1200 + _disk(offer, 1030 + 500 + 230)
    assert shop.state()["bill_micro_usd"] == int(expected)


def test_reading_more_often_changes_no_bill() -> None:
    bills = []
    for looks in (1, 37):
        shop = Shop()
        contract = shop.rented(_priced(shop)["id"])
        for _ in range(looks):
            shop.wait(3600 / looks)
            shop.state()
        shop.destroy(contract)
        bills.append(shop.state()["bill_micro_usd"])
    assert bills[0] == bills[1] > 0


def test_a_destroyed_instance_is_not_billed_any_more_and_stays_in_the_state() -> None:
    shop = Shop()
    contract = shop.rented(label="gone")
    shop.wait(100)
    shop.destroy(contract)
    before = shop.state()
    shop.wait(10_000)
    after = shop.state()
    assert after["instances"] == before["instances"]
    assert after["bill_micro_usd"] == before["bill_micro_usd"] == after["instances"][0]["billed_micro_usd"]
    assert (after["instances"][0]["status"], after["instances"][0]["label"]) == ("destroyed", "gone")


def test_an_offline_host_costs_nothing() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.wait(100)
    shop.control("POST", f"instances/{contract}/kill", {"how": "host"})
    before = shop.state()["bill_micro_usd"]
    shop.wait(1000)
    assert shop.state()["bill_micro_usd"] == before


def test_the_account_is_charged_what_the_bill_says() -> None:
    shop = Shop(credit=10.0)
    shop.rented()
    shop.wait(3600)
    credit = shop.ask("GET", "/api/v0/users/current", key=KEY)[1]["credit"]
    assert credit == pytest.approx(10 - shop.state()["bill_micro_usd"] / 1e6, abs=1e-9)


def test_instances_of_an_account_without_credit_are_stopped() -> None:
    shop = Shop(credit=0.05)
    contract = shop.rented()
    for _ in range(60):
        shop.wait(3600)
        shop.state()
    assert shop.get(contract)["cur_state"] == "stopped"


def test_a_later_price_does_not_change_an_existing_contract() -> None:
    shop = Shop()
    offer = _priced(shop)
    contract = shop.rented(offer["id"])
    shop.control("POST", f"offers/{offer['id']}", {"price_per_hour": 99.0})
    assert shop.get(contract)["dph_base"] == OFFER_PRICE / 1e6
