from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuproxy.model.money import Micro
from gpuproxy.model.offers import OfferFilter, OfferId, ProviderName, country_of, location_matches
from tests.markets import VAST, offer

ANY = OfferFilter(max_price=10)
NOON = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)
FACTS = offer(
    7,
    "m",
    num_gpus=2,
    conflict_keys=("a", "b"),
    direct_ports=3,
    compute_cap=8.9,
    cpu_cores=16.0,
    ram_gb=64.0,
    disk_bandwidth=900.0,
    inet_down=500.0,
    inet_up=200.0,
    inet_down_price=Micro(1_302),
    inet_up_price=Micro(2_604),
)
UNKNOWN = offer(8, cuda_max=0.0)


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
        ("min_cuda", {"min_cuda": 12.5, "cuda_assumed": True}, {"min_cuda": 12.4, "cuda_assumed": True}),
        ("compute_cap", {"min_compute_cap": 9.0}, {"min_compute_cap": 8.9}),
        ("ports", {"ports": 4}, {"ports": 3}),
        ("min_cpu_cores", {"min_cpu_cores": 16.1}, {"min_cpu_cores": 16}),
        ("min_ram_gb", {"min_ram_gb": 65}, {"min_ram_gb": 64}),
        ("min_disk_bandwidth", {"min_disk_bandwidth": 901}, {"min_disk_bandwidth": 900}),
        ("min_inet_down", {"min_inet_down": 501}, {"min_inet_down": 500}),
        ("min_inet_up", {"min_inet_up": 201}, {"min_inet_up": 200}),
        ("max_traffic_price", {"max_traffic_price": 0.002603}, {"max_traffic_price": 0.002604}),
        ("max_traffic_price", {"max_traffic_price": 0.0}, {"max_traffic_price": None}),
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


@pytest.mark.parametrize(
    "bound",
    [
        {"min_cuda": 11.0},
        {"min_cpu_cores": 1},
        {"min_ram_gb": 1},
        {"min_disk_bandwidth": 1},
        {"min_inet_down": 1},
        {"min_inet_up": 1},
        {"max_traffic_price": 1000},
    ],
    ids=str,
)
def test_an_offer_that_does_not_tell_a_number_that_the_caller_bounds_is_rejected(bound: dict[str, Any]) -> None:
    assert replace(ANY, **bound).rejects(UNKNOWN) == next(iter(bound))


def test_an_offer_that_does_not_tell_what_image_or_ports_need_passes() -> None:
    assert replace(ANY, min_cuda=12.8, cuda_assumed=True, min_compute_cap=7.5, ports=64).rejects(UNKNOWN) == ""


def test_a_host_without_direct_ports_is_rejected_only_where_ports_were_asked_for() -> None:
    closed = replace(FACTS, direct_ports=0)
    assert replace(ANY, ports=1).rejects(closed) == "ports"
    assert ANY.rejects(closed) == ""


def test_free_traffic_is_free_in_both_directions() -> None:
    free = replace(FACTS, inet_down_price=Micro(0), inet_up_price=Micro(0))
    assert replace(ANY, max_traffic_price=0.0).rejects(free) == ""
    for half in ({"inet_down_price": Micro(1)}, {"inet_up_price": Micro(1)}, {"inet_up_price": None}):
        assert replace(ANY, max_traffic_price=0.0).rejects(replace(free, **half)) == "max_traffic_price"  # type: ignore[arg-type]


def test_an_offer_that_ends_before_the_machine_is_given_back_is_rejected() -> None:
    ends = replace(FACTS, expires_at=NOON)
    assert ANY.rejects(ends, NOON + timedelta(microseconds=1)) == "ends_too_soon"
    assert ANY.rejects(ends, NOON) == ""
    assert ANY.rejects(ends) == ""
    assert ANY.rejects(FACTS, NOON) == ""  # no end is known


@pytest.mark.parametrize(
    ("location", "country"),
    [
        ("Texas, US", "US"),
        ("US", "US"),
        ("Sweden, se", "SE"),
        ("", ""),
        ("Belarus", ""),
        ("Texas, USA", ""),
        ("A, 1B", ""),
    ],
)
def test_a_country_is_the_two_letter_code_that_ends_a_location(location: str, country: str) -> None:
    assert country_of(location) == country


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
