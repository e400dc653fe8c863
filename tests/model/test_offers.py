from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.money import Micro
from gpuproxy.model.offers import OfferFilter, OfferId, ProviderName, location_matches
from tests.markets import VAST, offer

ANY = OfferFilter(max_price=10)
FACTS = offer(7, "m", num_gpus=2, conflict_keys=("a", "b"))


@pytest.mark.parametrize(
    ("rule", "strict", "met"),
    [
        ("provider", {"providers": frozenset({ProviderName("io.net")})}, {"providers": frozenset({VAST})}),
        ("offer", {"offer_id": OfferId("vast-8")}, {"offer_id": OfferId("vast-7")}),
        ("min_vram", {"min_vram": 24.5}, {"min_vram": 24}),
        ("max_price", {"max_price": 0.149999}, {"max_price": 0.15}),
        ("num_gpus", {"num_gpus": 1}, {"num_gpus": 2}),
        ("gpu_model", {"gpu_model": "RTX 3090"}, {"gpu_model": "rtx_4090"}),
        ("location", {"location": "CA"}, {"location": "us"}),
        ("min_reliability", {"min_reliability": 0.990001}, {"min_reliability": 0.99}),
        ("min_cuda", {"min_cuda": 12.5}, {"min_cuda": 12.4}),
        ("disk_gb", {"disk_gb": 501}, {"disk_gb": 500}),
        ("exclude_hosts", {"exclude_hosts": frozenset({"m"})}, {"exclude_hosts": frozenset({"vast.ai/mm"})}),
        ("exclude_hosts", {"exclude_hosts": frozenset({"vast.ai/m"})}, {"exclude_hosts": frozenset({"vast.ai"})}),
    ],
)
def test_a_broken_rule_is_named_and_a_value_at_its_limit_passes(
    rule: str, strict: dict[str, Any], met: dict[str, Any]
) -> None:
    assert replace(ANY, **strict).rejects(FACTS) == rule
    assert replace(ANY, **met).rejects(FACTS) == ""


def test_unverified_machines_are_excluded_by_default() -> None:
    unverified = replace(FACTS, verified=False)
    assert ANY.rejects(unverified) == "verified_only"
    assert replace(ANY, verified_only=False).rejects(unverified) == ""


def test_a_price_of_zero_means_free_and_not_any() -> None:
    assert replace(ANY, max_price=0).rejects(FACTS) == "max_price"
    assert replace(ANY, max_price=0).rejects(replace(FACTS, gpu_price=Micro(0))) == ""


def test_a_filter_at_exactly_the_shown_price_includes_the_offer() -> None:
    for gpus in range(1, 17):
        for price in range(1_000_000, 1_000_040):
            each = offer(1, num_gpus=gpus, gpu_price=Micro(price))
            assert replace(ANY, max_price=price / gpus / 1_000_000).rejects(each) == ""


def test_the_lowest_limit_lets_the_offer_pass_and_a_micro_dollar_less_does_not() -> None:
    for gpus in range(1, 17):
        for price in range(1_000_000, 1_000_040):
            each = offer(1, num_gpus=gpus, gpu_price=Micro(price))
            limit = each.lowest_limit(0)
            assert replace(ANY, max_price=limit / 1_000_000, disk_gb=0).rejects(each) == ""
            assert replace(ANY, max_price=(limit - 1) / 1_000_000, disk_gb=0).rejects(each) == "max_price"


def test_the_price_includes_the_disk_that_will_be_rented() -> None:
    each = replace(FACTS, disk_price_month=Micro(150_000))
    assert each.price(0) == 300_000
    assert each.price(50) == 310_417
    assert each.lowest_limit(0) == 150_000
    assert replace(ANY, max_price=0.15, disk_gb=50).rejects(each) == "max_price"


@pytest.mark.parametrize(
    ("wanted", "location"), [("US", "Texas, US"), ("us", "US"), ("texas", "Texas, US"), ("Sweden", "Sweden, SE")]
)
def test_a_location_is_a_country_code_or_part_of_the_name(wanted: str, location: str) -> None:
    assert location_matches(wanted, location)


@pytest.mark.parametrize(("wanted", "location"), [("us", "Belarus"), ("TE", "Texas, US"), ("US", ""), ("Utah", "US")])
def test_a_country_code_does_not_match_any_two_letters(wanted: str, location: str) -> None:
    assert not location_matches(wanted, location)


def test_the_marketplaces_own_id_is_what_follows_the_prefix() -> None:
    assert FACTS.native_id() == "7"
    assert replace(FACTS, id=OfferId("io-a-b-1")).native_id() == "a-b-1"
