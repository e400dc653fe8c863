"""Odd answers of io.net: lists that are not true, rows that can't be read, and other forms of "not found"."""

import json
import math

import pytest

from gpuproxy.sandbox.dialects.ionet.faults import CATALOGUE
from tests.sandbox.ionet_shop import HOUR, VM, IoShop


def test_a_list_may_be_empty_or_halved_or_cut() -> None:
    shop = IoShop()
    for _ in range(4):
        shop.booked()
    shop.arm("list", "empty_list")
    page = shop.data("GET", f"{VM}/deployments")
    assert (page["deployments"], page["total"]) == ([], 0)
    shop.arm("list", "missing_page")
    page = shop.data("GET", f"{VM}/deployments")
    assert (len(page["deployments"]), page["total"], len(page["statuses"])) == (2, 4, 6)
    shop.arm("list", "truncated")
    with pytest.raises(json.JSONDecodeError):
        shop.listed()
    assert len(shop.listed()) == 4


def test_rows_may_repeat_and_be_missed_when_each_page_has_another_order() -> None:
    shop = IoShop()
    for number in range(8):
        shop.booked(resource_private_name=f"gp-{number}")
    shop.arm("list", "unstable_pages", times=0)
    pages = [shop.listed(page=page, page_size=2) for page in (1, 2, 3, 4)]
    seen = [row["id"] for page in pages for row in page]
    assert len(seen) == 8
    assert len(set(seen)) < 8
    shop.control("DELETE", "faults")
    assert len({row["id"] for page in (1, 2, 3, 4) for row in shop.listed(page=page, page_size=2)}) == 8


def test_a_list_may_have_no_end() -> None:
    shop = IoShop()
    shop.arm("list", "endless_list", times=0)
    first, later = shop.listed(page_size=100), shop.listed(page_size=100, page=50)
    assert (len(first), len(later)) == (100, 100)
    assert not {row["id"] for row in first} & {row["id"] for row in later}


@pytest.mark.parametrize("kind", CATALOGUE.choices["odd_row", "kind"])
def test_a_row_may_be_malformed(kind: str) -> None:
    shop = IoShop()
    shop.booked()
    shop.arm("list", "odd_row", args={"kind": kind})
    body = shop.response("GET", f"{VM}/deployments").body
    if kind == "undecodable":
        with pytest.raises(UnicodeDecodeError):
            body.decode()
        return
    row = json.loads(body)["data"]["deployments"][0]
    match kind:
        case "null_row":
            assert row is None
        case "no_id":
            assert "id" not in row
        case "nan":
            assert math.isnan(row["compute_minutes_remaining"])
        case "surrogate":
            assert "\ud800" in row["name"]
        case "wrong_types":
            assert row["compute_minutes_remaining"] == "120"
        case "null_fields":
            assert (row["status"], row["id"] is None) == (None, False)


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ("detail_404", 404),
        ("null", 200),
        ("empty_object", 200),
        ("status_410", 410),
        ("plain_404", 404),
        ("html_404", 404),
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_missing_deployment_may_be_answered_in_other_forms(form: str, status: int, method: str) -> None:
    shop = IoShop()
    number = shop.running()
    shop.arm("any", "gone_as", args={"form": form})
    assert shop.detail(number)["id"] == number  # of an existing one, nothing changes
    missing = f"{VM}/deployment/6f1c0000-0000-4000-8000-000000000000"
    assert shop.ask(method, missing)[0] == status
    assert shop.ask(method, missing) == (404, {"status": "failed", "error": "Deployment not found"})


def test_an_ended_deployment_can_still_be_read_but_is_gone_for_a_delete() -> None:
    shop = IoShop()
    number = shop.running(duration_hours=1)
    shop.wait(HOUR)
    shop.arm("any", "gone_as", args={"form": "status_410"})
    assert shop.detail(number)["status"] == "completed"
    assert shop.ask("DELETE", f"{VM}/deployment/{number}")[0] == 410
