"""Faulty lists: rows of unknown instances, malformed rows, endless lists, slow pages."""

import json
from typing import Any

import pytest

from gpuproxy.ports import HttpReplyLost, HttpRequest
from gpuproxy.sandbox.server.in_process import InProcessHttp
from tests.sandbox.shop import KEY, Shop

LIST = "/api/v1/instances/"


def _body(shop: Shop, path: str = LIST) -> bytes:
    response = shop.plan("GET", path).response
    assert response is not None
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    return response.body


def _with_odd_row(kind: str, **args: Any) -> tuple[Any, int, Shop]:
    """A page with two rows of the account and the malformed one; the id of the first; the shop."""
    shop = Shop()
    contract = shop.rented(label="mine")
    shop.rented()
    shop.arm("list", "odd_row", args={"kind": kind, **args})
    return shop.page(), contract, shop


@pytest.mark.parametrize("kind", ["surrogate", "nan", "null_row", "no_id", "wrong_types", "null_fields"])
def test_an_unknown_malformed_row_is_added_and_counted_and_the_others_do_not_change(kind: str) -> None:
    page, _, shop = _with_odd_row(kind)
    assert (len(page["instances"]), page["instances_found"], page["total_instances"]) == (3, 3, 3)
    after = shop.page()
    assert page["instances"][:2] == after["instances"]
    assert (after["total_instances"], len(shop.state()["instances"])) == (2, 2)


def test_each_kind_of_malformed_row_has_its_malformation() -> None:
    rows = {
        kind: _with_odd_row(kind)[0]["instances"][2]
        for kind in ("surrogate", "nan", "no_id", "wrong_types", "null_fields")
    }
    assert rows["surrogate"]["status_msg"] == "broken \ud800 text"
    assert rows["nan"]["dph_total"] != rows["nan"]["dph_total"]
    assert "id" not in rows["no_id"]
    assert len(rows["no_id"]) > 90
    wrong = rows["wrong_types"]
    types = {name: type(wrong[name]) for name in ("id", "dph_total", "label", "search", "ports", "is_bid")}
    assert types == {"id": str, "dph_total": str, "label": int, "search": list, "ports": list, "is_bid": str}
    assert {name for name, value in rows["null_fields"].items() if value is not None} == {"id"}


def test_an_undecodable_row_is_not_utf_8_and_a_surrogate_is_a_valid_escape() -> None:
    shop = Shop()
    for kind in ("undecodable", "surrogate"):
        shop.arm("list", "odd_row", args={"kind": kind})
    with pytest.raises(UnicodeDecodeError):
        _body(shop).decode()
    assert rb"\ud800" in _body(shop)


@pytest.mark.parametrize("kind", ["undecodable", "null_row", "no_id", "null_fields"])
def test_a_row_of_the_account_can_be_malformed_and_is_not_added(kind: str) -> None:
    shop = Shop()
    first, second = shop.rented(), shop.rented()
    shop.arm("list", "odd_row", args={"kind": kind, "whose": "mine", "id": second})
    page = json.loads(_body(shop).decode(errors="replace"))
    assert (len(page["instances"]), page["total_instances"]) == (2, 2)
    good, odd = page["instances"]
    assert (good["id"], good == shop.get(first) | {"volume_info": []}) == (first, True)
    assert odd != shop.page()["instances"][1]


def test_without_an_id_the_first_row_of_the_account_is_malformed() -> None:
    page, contract, _ = _with_odd_row("null_fields", whose="mine")
    assert (page["instances"][0]["id"], page["instances"][0]["label"]) == (contract, None)
    shop = Shop()
    shop.arm("list", "odd_row", args={"whose": "mine"})
    assert shop.page()["instances"] == []


def test_one_row_is_malformed_even_without_the_id_column() -> None:
    shop = Shop()
    for _ in range(2):
        shop.rented(label="mine")
    shop.arm("list", "odd_row", args={"kind": "null_fields", "whose": "mine"})
    assert shop.page(select_cols=["label"])["instances"] == [{"label": None}, {"label": "mine"}]


def test_a_lasting_unknown_row_appears_once_and_counts_on_every_page() -> None:
    shop = Shop()
    for _ in range(5):
        shop.rented()
    shop.arm("list", "odd_row", times=0, args={"kind": "null_fields"})
    pages = list(shop.pages(limit=2))
    assert [len(page["instances"]) for page in pages] == [3, 2, 1]
    assert {page["total_instances"] for page in pages} == {6}


def test_a_malformed_row_has_the_requested_columns() -> None:
    shop = Shop()
    shop.arm("list", "odd_row", args={"kind": "null_fields"})
    [row] = shop.page(select_cols=["id", "label"])["instances"]
    assert row.keys() == {"id", "label"}


def test_the_row_of_a_single_read_can_be_malformed_and_a_null_row_is_not_null() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.arm("get", "odd_row", args={"kind": "no_id"})
    assert "id" not in shop.get(contract)
    shop.arm("get", "odd_row", args={"kind": "null_row"})
    assert shop.get(contract) == [None]
    assert shop.get(contract)["id"] == contract


def test_an_endless_list_always_has_new_rows_and_another_page() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.arm("list", "endless_list", times=0)
    token, seen = None, set()
    for number in range(1, 9):
        page = shop.page(**({} if token is None else {"after_token": token}))
        seen |= {row["id"] for row in page["instances"]}
        assert (len(page["instances"]), len(seen)) == (25, 25 * number)
        assert page["total_instances"] > len(seen)
        assert page["next_token"] not in (None, token)
        token = page["next_token"]
    assert contract not in seen
    assert len(shop.state()["instances"]) == 1


def test_after_an_endless_list_ends_the_real_rows_follow() -> None:
    shop = Shop()
    contract = shop.rented()
    shop.arm("list", "endless_list", times=2)
    *strangers, last = shop.pages(limit=3)
    assert [len(page["instances"]) for page in strangers] == [3, 3]
    assert [row["id"] for row in last["instances"]] == [contract]


def _request(**more: Any) -> HttpRequest:
    return HttpRequest(method="GET", url=f"http://x{LIST}", headers={"Authorization": f"Bearer {KEY}"}, **more)


async def test_a_slow_page_takes_ten_market_seconds_and_others_take_none() -> None:
    shop = Shop()
    http = InProcessHttp(shop.sandbox)
    shop.arm("list", "slow_pages", times=2)
    for _ in range(3):
        assert (await http.send(_request())).status == 200
    assert shop.clock.seconds == 20.0


async def test_a_slow_page_can_take_longer_than_its_reader_waits() -> None:
    shop = Shop()
    shop.arm("list", "slow_pages", args={"seconds": 90})
    with pytest.raises(HttpReplyLost):
        await InProcessHttp(shop.sandbox).send(_request(timeout=30))
