"""Charges: a row for each contract, exact to the micro-dollar; they add up to the market's bill."""

import json
from typing import Any
from urllib.parse import urlencode

from tests.sandbox.shop import OTHER_KEY, Shop
from tests.sandbox.test_volumes import made, offer


def charged(shop: Shop, key: str = "sandbox-key", **query: Any) -> Any:
    filters = {"day": {"gte": 0}, **query.pop("filters", {})}
    texts = urlencode({"select_filters": json.dumps(filters), **query})
    status, answer = shop.ask("GET", f"/api/v0/charges/?{texts}", key=key)
    assert status == 200, answer
    return answer


def lived(shop: Shop) -> tuple[int, int, int]:
    """(volume, ended instance, running instance)."""
    gpu = offer(shop)
    volume, first = made(shop, gpu), shop.rented(gpu["id"], label="first")
    shop.wait(4321)
    shop.destroy(first)
    second = shop.rented(label="second")
    shop.wait(1234)
    return volume, first, second


def test_all_charges_and_their_parts_add_up_to_the_bill() -> None:
    shop = Shop()
    volume, first, second = lived(shop)
    rows = charged(shop)["results"]
    assert [row["source"] for row in rows] == [f"volume-{volume}", f"instance-{first}", f"instance-{second}"]
    assert round(sum(row["amount"] for row in rows) * 1e6) == shop.state()["bill_micro_usd"]
    for row in rows:
        assert round(sum(item["amount"] for item in row["items"]) * 1e6) == round(row["amount"] * 1e6) > 0
        assert round(row["amount"], 6) == row["amount"]
    assert [row["metadata"]["label"] for row in rows[1:]] == ["first", "second"]
    assert [item["type"] for item in rows[1]["items"]] == ["gpu", "disk"]


def test_charges_are_filtered_by_kind_and_end() -> None:
    shop = Shop()
    volume, first, second = lived(shop)
    assert [row["source"] for row in charged(shop, filters={"type": {"in": ["v"]}})["results"]] == [f"volume-{volume}"]
    assert charged(shop, filters={"type": {"in": ["serverless"]}})["results"] == []
    shop.wait(3 * 86400)
    late = charged(shop, filters={"day": {"gte": shop.state()["now"] - 86400}})["results"]
    assert [row["source"] for row in late] == [f"volume-{volume}", f"instance-{second}"]
    assert f"instance-{first}" not in str(late)


def test_charges_come_in_pages_and_in_either_order() -> None:
    shop = Shop()
    lived(shop)
    for latest_first in ("false", "true"):
        whole = charged(shop, latest_first=latest_first)
        pages = [charged(shop, latest_first=latest_first, limit=2)]
        assert (pages[0]["count"], pages[0]["total"]) == (2, 3)
        pages.append(charged(shop, latest_first=latest_first, limit=2, after_token=pages[0]["next_token"]))
        assert [row for page in pages for row in page["results"]] == whole["results"]
        assert pages[1]["next_token"] is None
    starts = [row["start"] for row in charged(shop, latest_first="true")["results"]]
    assert starts == sorted(starts, reverse=True)


def test_another_account_sees_none_of_it() -> None:
    shop = Shop()
    lived(shop)
    assert charged(shop, OTHER_KEY)["results"] == []


def test_a_changed_bid_is_charged_at_each_of_its_prices() -> None:
    shop = Shop()
    gpu = shop.search(num_gpus={"eq": 1}, type="bid", limit=1)[0]
    contract = shop.rented(gpu["id"], price=1.0)
    shop.wait(30 + 3600)
    assert shop.ask("PUT", f"/api/v0/instances/bid_price/{contract}/", {"price": 2.0})[0] == 200
    shop.wait(3600)
    (row,) = charged(shop)["results"]
    assert [(item["type"], item["amount"]) for item in row["items"][:2]] == [("gpu", 1.0), ("gpu", 2.0)]
    assert round(row["amount"] * 1e6) == shop.state()["bill_micro_usd"]
    shop.destroy(contract)
    assert charged(shop)["results"][0]["items"] == row["items"]
