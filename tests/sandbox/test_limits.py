"""Rate limits: minimum intervals for each endpoint and account, on the market's clock."""

import pytest

from tests.sandbox.shop import OTHER_KEY, Shop


def test_a_second_create_within_four_and_a_half_seconds_is_refused_with_plain_text() -> None:
    shop = Shop(rate_limits="real")
    offers = [offer["id"] for offer in shop.search(num_gpus={"eq": 1}, limit=5)]
    shop.rented(offers[0])
    shop.wait(4.4)
    assert shop.create(offers[1]) == (429, "API requests too frequent: endpoint threshold=4.5")
    assert shop.create(offers[2], OTHER_KEY)[0] == 200
    shop.wait(0.1)
    assert shop.create(offers[1])[0] == 200
    assert len(shop.state()["instances"]) == 3


def test_a_refused_call_does_not_count() -> None:
    shop = Shop(rate_limits="real")
    assert shop.ask("GET", "/api/v1/instances/")[0] == 200
    for _ in range(3):
        shop.wait(0.3)
        assert shop.ask("GET", "/api/v1/instances/")[0] == 429
    shop.wait(0.1)
    assert shop.ask("GET", "/api/v1/instances/")[0] == 200


def test_the_eleventh_search_in_a_minute_is_refused() -> None:
    shop = Shop(rate_limits="real")
    for _ in range(10):
        shop.search(limit=1)
        shop.wait(1)
    assert shop.ask("POST", "/api/v0/bundles/", {}) == (429, "API requests too frequent")
    shop.wait(50)
    assert shop.search(limit=1)


@pytest.mark.parametrize(
    ("method", "path", "seconds", "field"),
    [
        ("GET", "/api/v0/instances/1/", 2.0, "detail"),
        ("GET", "/api/v1/instances/", 1.0, "detail"),
        ("DELETE", "/api/v0/instances/1/", 3.0, "msg"),
    ],
)
def test_each_endpoint_has_its_own_interval_and_form(method: str, path: str, seconds: float, field: str) -> None:
    shop = Shop(rate_limits="real")
    shop.ask(method, path)
    status, answer = shop.ask(method, path)
    assert (status, answer[field]) == (429, f"API requests too frequent endpoint threshold={seconds}")
    shop.wait(seconds)
    assert shop.ask(method, path)[0] != 429


def test_start_stop_and_label_share_one_interval() -> None:
    shop = Shop(rate_limits="real")
    contract = shop.rented()
    assert shop.manage(contract, label="a")[0] == 200
    assert shop.manage(contract, state="stopped")[0] == 429


def test_without_limits_nothing_is_refused() -> None:
    shop = Shop()
    assert {shop.ask("GET", "/api/v1/instances/")[0] for _ in range(50)} == {200}
