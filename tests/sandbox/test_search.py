"""The query language of vast.ai's offer search."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from tests.sandbox.shop import KEY, Shop

SHOP = Shop()


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ({"num_gpus": {"eq": "1"}}, lambda offer: offer["num_gpus"] == 1),
        ({"num_gpus": {"gte": 2, "lt": "8"}}, lambda offer: 2 <= offer["num_gpus"] < 8),
        ({"num_gpus": {"neq": 1}}, lambda offer: offer["num_gpus"] != 1),
        ({"gpu_name": {"eq": "RTX_4090"}}, lambda offer: offer["gpu_name"] == "RTX 4090"),
        ({"gpu_name": {"in": ["RTX 4090", "H100 SXM"]}}, lambda offer: offer["gpu_name"] in {"RTX 4090", "H100 SXM"}),
        ({"gpu_name": {"notin": ["RTX 4090"]}}, lambda offer: offer["gpu_name"] != "RTX 4090"),
        ({"gpu_ram": {"gte": 24000.0}}, lambda offer: offer["gpu_ram"] >= 24000),
        ({"gpu_ram_GB": {"gte": 24}}, lambda offer: offer["gpu_ram"] >= 24000),
        ({"reliability2": {"gt": "0.99"}}, lambda offer: offer["reliability"] > 0.99),
        ({"geolocation": {"in": ["US", "CA"]}}, lambda offer: offer["geolocation"][-2:] in {"US", "CA"}),
        ({"datacenter": {"eq": True}}, lambda offer: offer["hosting_type"] == 1),
        ({"driver_version": {"gte": "570.0.0"}}, lambda offer: offer["driver_vers"] >= 570_000_000),
        ({"dph_total": {"lte": 0.5}}, lambda offer: offer["dph_total"] <= 0.5),
        ({"duration": {"gt": 100 * 86400.0}}, lambda offer: offer["duration"] > 100 * 86400),
        ({"verified": {"eq": False}}, lambda offer: offer["verification"] != "verified"),
        ({"rentable": {"eq": False}}, lambda offer: not offer["rentable"]),
        ({"external": {"eq": False}}, lambda offer: True),
        ({"rented": {"eq": False}}, lambda offer: True),
        ({"cuda_max_good": {"gte": 12.8}, "compute_cap": {"gte": 600}}, lambda offer: offer["cuda_max_good"] >= 12.8),
    ],
)
def test_a_condition_finds_exactly_the_matching_offers(query: dict[str, Any], holds: Any) -> None:
    found = SHOP.search(**query, disable_bundling=True)
    defaults = {} if "rentable" in query else {"rentable": True}
    if "verified" not in query:
        defaults["verification"] = "verified"
    everything = SHOP.search(rentable="any", verified="any", disable_bundling=True)
    expected = {
        offer["id"] for offer in everything if holds(offer) and all(offer[name] == it for name, it in defaults.items())
    }
    assert {offer["id"] for offer in found} == expected
    assert expected


@pytest.mark.parametrize("column", ["id", "ask_contract_id"])
def test_one_offer_is_found_by_its_id(column: str) -> None:
    wanted = SHOP.search()[3]["id"]
    assert [offer["id"] for offer in SHOP.search(**{column: {"eq": wanted}})] == [wanted]


def test_order_and_limit_give_the_cheapest_first() -> None:
    everything = SHOP.search(order=[["dph_total", "asc"]])
    prices = [offer["dph_total"] for offer in everything]
    assert prices == sorted(prices)
    assert SHOP.search(order=[["dph_total", "asc"]], limit=7) == everything[:7]
    assert [one["dph_total"] for one in SHOP.search(order=[["dph_total", "desc"]])] == prices[::-1]


def test_prices_include_the_requested_disk_and_offers_without_space_for_it_are_omitted() -> None:
    offers = SHOP.search(allocated_storage=400.0)
    for offer in offers:
        disk = offer["storage_cost"] * 400 / 720
        assert offer["dph_total"] == pytest.approx(offer["dph_base"] + disk, abs=1e-9)
        assert offer["search"]["diskHour"] == pytest.approx(disk)
        assert offer["disk_space"] >= 400
    assert 0 < len(offers) < len(SHOP.search(allocated_storage=5.0))


def test_bid_offers_are_searched_at_their_minimum_bid() -> None:
    offer = SHOP.search(type="bid", limit=1)[0]
    assert offer["is_bid"]
    assert offer["dph_base"] == offer["min_bid"]
    assert not SHOP.search(type="on-demand", limit=1)[0]["is_bid"]


def test_the_other_two_forms_of_the_search_answer_the_same() -> None:
    query = {"num_gpus": {"eq": "1"}, "order": [["dph_total", "asc"]], "limit": 3}
    expected = SHOP.search(**query)
    _, by_get = SHOP.ask("GET", f"/api/v0/bundles?q={quote(json.dumps(query))}")
    _, by_put = SHOP.ask("PUT", "/api/v0/search/asks/", {"select_cols": ["*"], "q": query})
    _, chosen = SHOP.ask("PUT", "/api/v0/search/asks/", {"select_cols": ["id"], "q": query})
    assert by_get["offers"] == by_put["offers"] == expected
    assert chosen["offers"] == [{"id": offer["id"]} for offer in expected]


def test_the_page_cap_applies_whatever_the_limit() -> None:
    shop = Shop(search_page=10)
    assert len(shop.search(limit=500)) == 10
    assert len(shop.search(limit=4)) == 4


@pytest.mark.parametrize(
    "query", [{"num_gpu": {"eq": 1}}, {"num_gpus": {"like": 1}}, {"num_gpus": {"in": 1}}, {"limit": "x"}, {"type": "x"}]
)
def test_an_invalid_query_is_refused(query: dict[str, Any]) -> None:
    status, answer = SHOP.ask("POST", "/api/v0/bundles/", query)
    assert (status, answer["error"]) == (400, "invalid_request")


def test_a_body_that_is_not_json_is_refused() -> None:
    answer = {"error": "invalid_request", "msg": "Invalid json body"}
    assert SHOP.ask("POST", "/api/v0/bundles/", b"{") == (400, answer)


def test_the_content_type_has_no_charset() -> None:
    response = SHOP.plan("POST", "/api/v0/bundles", {}, KEY).response
    assert response is not None
    assert response.headers["content-type"] == "application/json"


def test_an_offer_has_the_recorded_fields() -> None:
    offer = SHOP.search(limit=1)[0]
    assert len(offer) >= 96
    assert offer["id"] == offer["ask_contract_id"]
    assert offer["gpu_total_ram"] == offer["gpu_ram"] * offer["num_gpus"]
    assert offer["num_gpus"] == len(offer["gpu_ids"])
    assert offer["dph_total_adj"] == pytest.approx(
        offer["dph_total"] + 0.625 * (offer["inet_up_cost"] + offer["inet_down_cost"])
    )
