"""io.net's hardware: rows, prices and capacity."""

from typing import Any

import pytest

from tests.sandbox.ionet_shop import CAAS, VM, IoShop


def rows_of(shop: IoShop, kind: object) -> list[Any]:
    return [row for row in shop.hardware() if row["deploy_id"] == kind]


def quote(shop: IoShop, **query: Any) -> Any:
    wanted = {"hardware_id": 12, "gpus_per_vm": 1, "duration_hours": 1, "location_ids": '["US"]'}
    return shop.data("GET", f"{VM}/price", **(wanted | query))


def test_a_row_is_one_configuration_in_one_country_with_the_price_of_all_its_gpus() -> None:
    rows = rows_of(IoShop(), 12)
    assert [(row["num_cards"], row["location"], row["price"]) for row in rows] == [
        (1, "US", 0.3),
        (1, "FI", 0.3),
        (2, "US", 0.6),
        (2, "FI", 0.6),
        (4, "US", 1.2),
        (4, "FI", 1.2),
    ]
    assert {row["id"] for row in rows} == {"12__1", "12__2", "12__4"}
    assert {row["id"] for row in rows_of(IoShop(), "B200_sxm6x8")} == {"B200_sxm6x8__US", "B200_sxm6x8__AU"}


def test_ids_are_numbers_and_texts_and_a_deploy_needs_the_same_type() -> None:
    shop = IoShop()
    assert {type(row["deploy_id"]) for row in shop.hardware()} == {int, str}
    assert shop.deploy(hardware_id=12)[0] == 200
    assert shop.deploy(hardware_id="203")[0] == 200
    for wrong in ("12", 203):
        assert shop.deploy(hardware_id=wrong)[0] == 400


def test_some_rows_can_not_be_booked() -> None:
    shop = IoShop()
    sold_out = next(row for row in shop.hardware() if row["sold_out"])
    no_cards = next(row for row in shop.hardware() if row["num_cards"] == 0)
    no_price = next(row for row in shop.hardware() if row["price"] == 0 and row["num_cards"])
    for row, status in ((sold_out, 400), (no_cards, 422), (no_price, 400)):
        wanted = {"hardware_id": row["deploy_id"], "gpus_per_vm": row["num_cards"], "location_ids": [row["location"]]}
        assert shop.deploy(**wanted)[0] == status
    assert shop.listed() == []


def test_a_number_of_gpus_or_a_country_that_is_not_offered_can_not_be_booked() -> None:
    shop = IoShop()
    refused = (400, {"status": "failed", "error": "Hardware is not available for this configuration"})
    assert shop.deploy(gpus_per_vm=3) == refused
    assert shop.deploy(location_ids=["IS"]) == refused
    assert shop.deploy(hardware_id=999) == refused
    assert shop.deploy(location_ids=None, node_pool_id="6f1c0000-0000-4000-8000-000000000000") == refused


def test_all_rows_of_a_kind_in_a_country_share_its_hosts() -> None:
    shop = IoShop()
    before = quote(shop, gpus_per_vm=4)["available_replica_count"]
    shop.booked(gpus_per_vm=1)
    assert quote(shop, gpus_per_vm=4)["available_replica_count"] == [before[0] - 1]
    shop.booked(gpus_per_vm=1)  # on the host that is used already
    assert quote(shop, gpus_per_vm=4)["available_replica_count"] == [before[0] - 1]
    assert quote(shop, gpus_per_vm=4, location_ids='["FI"]')["available_replica_count"] != [0]


@pytest.mark.parametrize("how", ["deployments", "other customers"])
def test_a_row_without_room_is_sold_out_until_gpus_are_free(how: str) -> None:
    shop = IoShop()
    made = []
    hosts = [host.id for host in shop.sandbox.prepaid.hosts.values() if host.kind == "H100_sxm5"]
    for host in hosts:
        if how == "deployments":
            status, answer = shop.deploy(hardware_id="H100_sxm5")
            made += [answer["deployment_id"]] if status == 200 else []
        else:
            shop.control("POST", f"machines/{host}/occupy", {"gpus": 8})
    assert [row["sold_out"] for row in rows_of(shop, "H100_sxm5")] == [True]
    assert shop.deploy(hardware_id="H100_sxm5") == (
        400,
        {"status": "failed", "error": "Requested hardware is sold out: no available capacity in this location"},
    )
    for number in made:
        shop.ask("DELETE", f"{VM}/deployment/{number}")
    for host in hosts if not made else []:
        shop.control("POST", f"machines/{host}/vacate")
    shop.wait(20)
    assert shop.deploy(hardware_id="H100_sxm5")[0] == 200


def test_a_quote_is_for_the_whole_booking_and_reserves_nothing() -> None:
    shop = IoShop()
    assert quote(shop, gpus_per_vm=2, duration_hours=3)["total_cost_usdc"] == 1.8
    odd = quote(shop, hardware_id="8H100.80S.176V", gpus_per_vm=8, duration_hours=3, location_ids='["FI"]')
    assert odd["total_cost_usdc"] == 83.626027
    first = quote(shop)["available_replica_count"]
    assert quote(shop)["available_replica_count"] == first


def test_a_quote_takes_a_country_code_or_its_number() -> None:
    shop = IoShop()
    [place] = [
        one for one in shop.data("GET", f"{VM}/available-vms", hardware_id=12, hardware_qty=2) if one["iso2"] == "US"
    ]
    assert quote(shop, location_ids=f"[{place['id']}]") == quote(shop)
    assert shop.deploy(location_ids=[place["id"]])[0] == 200
    assert shop.ask("GET", f"{VM}/available-vms", hardware_id="B200_sxm6x8", hardware_qty=8)[0] == 422


def test_a_quote_for_something_that_can_not_be_booked_is_refused() -> None:
    shop = IoShop()
    for wrong in ({"hardware_id": 999}, {"gpus_per_vm": 3}, {"location_ids": '["IS"]'}, {"hardware_id": 77}):
        query = {"hardware_id": 12, "gpus_per_vm": 1, "duration_hours": 1, "location_ids": '["US"]'} | wrong
        assert shop.ask("GET", f"{VM}/price", **query)[0] == 400


def test_a_price_moves_for_later_bookings_only() -> None:
    shop = IoShop()
    before = shop.booked()
    shop.control("POST", "offers/12__1", {"price_per_hour": 0.5})
    assert {row["price"] for row in rows_of(shop, 12) if row["num_cards"] == 1} == {0.5}
    assert shop.detail(before)["amount_paid"] == 0.6
    assert shop.detail(shop.booked())["amount_paid"] == 1.0
    assert quote(shop)["total_cost_usdc"] == 0.5
    assert shop.ask("POST", "/sandbox/v1/offers/99__1", {"price_per_hour": 1}, None)[0] == 404


def test_hardware_can_be_filtered() -> None:
    shop = IoShop()
    assert {row["name"] for row in shop.data("GET", f"{VM}/hardware", gpu="4090")["hardware"]} == {"GeForce RTX 4090"}
    external = shop.data("GET", f"{VM}/hardware", supplier="external", regions="AU")["hardware"]
    assert [row["id"] for row in external] == ["B200_sxm6x8__AU"]
    assert shop.ask("GET", f"{VM}/hardware", supplier="mine")[0] == 422


def test_containers_have_one_row_for_each_kind_and_country_with_all_gpus_of_a_host() -> None:
    rows = IoShop().data("GET", f"{CAAS}/hardware")
    named = {(row["hardware_id"], row["location"]): row for row in rows}
    assert len(named) == len(rows)
    assert named["203", "US"] == {
        "hardware_id": "203",
        "hardware_name": "L40",
        "brand_name": "NVIDIA",
        "location": "US",
        "price": 5.28,
        "available": named["203", "US"]["network"],
        "network": named["203", "US"]["network"],
        "max_gpus_per_container": 8,
        "min_gpus_per_container": None,
        "confidential_compute": False,
    }
    old = IoShop().data("GET", f"{CAAS}/hardware/max-gpus-per-container")
    assert old["hardware"]
    assert old["total"] == 0


def test_the_same_seed_makes_the_same_market_and_another_seed_another_one() -> None:
    def taken(seed: int) -> list[tuple[str, int]]:
        return [(host.id, host.strangers) for host in IoShop(seed=seed).sandbox.prepaid.hosts.values()]

    assert taken(7) == taken(7)
    assert taken(7) != taken(8)
    assert IoShop(seed=3).booked() == IoShop(seed=3).booked()
    assert IoShop(seed=3).booked() != IoShop(seed=4).booked()
