import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gpuproxy.catalog.columns import Named, Ordered, mask_of, places_in
from gpuproxy.catalog.snapshot import View, built
from gpuproxy.model.chunks import rentable_gpus
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, OfferId, ProviderName
from tests.markets import VAST, nested, offer, random_market

IONET = ProviderName("io.net")
NOON = datetime(2026, 6, 12, 12, 0, tzinfo=UTC)


def varied(seed: int, hosts: int) -> list[Offer]:
    """A random market in which every field that a filter looks at differs."""
    dice = random.Random(seed)
    facts: dict[str, dict[str, Any]] = {}
    offers = []
    for each in random_market(seed, hosts, crossing=True):
        own = facts.setdefault(
            each.host,
            {
                "gpu_model": dice.choice(("RTX 4090", "RTX 3090", "H100 SXM", "A100 SXM4")),
                "vram_gb": dice.choice((8, 24, 40, 80)),
                "location": dice.choice(("Texas, US", "Ontario, CA", "", "Sweden, SE", "Utah, us")),
                "verified": dice.random() < 0.7,
                "reliability_ppm": dice.randrange(900_000, 1_000_001),
                "cuda_max": dice.choice((0.0, 11.8, 12.2, 12.4)),
                "compute_cap": dice.choice((0.0, 3.7, 6.1, 8.9)),
                "direct_ports": dice.choice((None, 0, 2, 99)),
                "cpu_cores": dice.choice((0.0, 8.0, 16.0)),
                "ram_gb": dice.choice((0.0, 32.0, 64.0)),
                "disk_bandwidth": dice.choice((0.0, 500.0, 2291.5)),
                "inet_down": dice.choice((0.0, 100.0, 900.0)),
                "inet_up": dice.choice((0.0, 100.0, 900.0)),
                "inet_down_price": dice.choice((None, Micro(0), Micro(1302))),
                "inet_up_price": dice.choice((None, Micro(0), Micro(1302))),
                "expires_at": dice.choice((None, NOON, NOON + timedelta(days=1), NOON + timedelta(days=9))),
                "max_disk_gb": dice.choice((20.0, 50.0, 49.9, 900.0)),
                "disk_price_month": Micro(dice.randrange(0, 400_000)),
            },
        )
        offers.append(replace(each, **own))
    other = [replace(each, id=OfferId(f"io-{at}"), provider=IONET) for at, each in enumerate(offers[::7])]
    return offers + [replace(each, host=f"io.net/{each.machine_id}") for each in other]  # type: ignore[arg-type]


def random_filter(dice: random.Random, offers: list[Offer]) -> OfferFilter:
    some = dice.choice(offers)
    exact = some.price(50) / some.num_gpus / 1_000_000

    def maybe(value: Any, otherwise: Any) -> Any:
        return value if dice.random() < 0.3 else otherwise

    def rarely(value: Any, otherwise: Any) -> Any:
        return value if dice.random() < 0.1 else otherwise

    return OfferFilter(
        providers=maybe(frozenset({dice.choice((VAST, IONET))}), frozenset()),
        min_vram=maybe(dice.choice((8, 23.5, 24, 81)), 0.0),
        max_price=dice.choice((exact, exact, round(exact, 6), dice.uniform(0.05, 0.2), 10.0)),
        gpu_model=maybe(dice.choice(("rtx_4090", "H100", "a100 sxm4", "GTX 1080")), ""),
        location=maybe(dice.choice(("US", "ca", "Sweden", "xx")), ""),
        verified_only=dice.random() < 0.5,
        min_reliability=maybe(dice.uniform(0.9, 1.0), 0.0),
        min_cuda=maybe(dice.choice((12.2, 12.3, 13.0)), 0.0),
        cuda_assumed=dice.random() < 0.5,
        min_compute_cap=maybe(dice.choice((3.7, 5.0, 7.5)), 0.0),
        ports=maybe(dice.choice((1, 2, 3)), 0),
        min_cpu_cores=rarely(dice.choice((8, 9)), 0.0),
        min_ram_gb=rarely(dice.choice((32, 33)), 0.0),
        min_disk_bandwidth=rarely(500, 0.0),
        min_inet_down=rarely(100, 0.0),
        min_inet_up=rarely(100.5, 0.0),
        max_traffic_price=rarely(dice.choice((0, 0.001301, 0.001302)), None),
        num_gpus=maybe(dice.choice((1, 2, 3, 8)), 0),
        disk_gb=maybe(dice.choice((10, 49.9, 51, 500)), 50),
        exclude_hosts=maybe(frozenset({some.host, "m1"}), frozenset()),
        offer_id=some.id if dice.random() < 0.05 else None,
    )


def test_the_index_agrees_with_the_filter_on_every_offer() -> None:
    for seed in range(6):
        offers = varied(seed, 60)
        snapshot = built([(each, {}) for each in offers])
        dice = random.Random(seed)
        for _ in range(100):
            wanted = random_filter(dice, offers)
            until = dice.choice((None, NOON, NOON + timedelta(seconds=1), NOON + timedelta(days=3)))
            selection = snapshot.select(wanted, until=until)
            rules = {each.id: wanted.rejects(each, until) for each in offers}
            passed = [each for each in offers if not rules[each.id]]
            assert {each.id for each in selection.offers} == {each.id for each in passed}
            assert selection.total == len(passed)
            assert selection.rejected == Counter(filter(None, rules.values()))
            assert selection.available_gpus == rentable_gpus(passed)
            prices = [each.price(wanted.disk_gb) / each.num_gpus for each in selection.offers]
            assert prices == sorted(prices)


def test_a_filter_at_exactly_the_price_includes_it_and_a_micro_dollar_below_does_not() -> None:
    for gpus in (1, 3, 7, 8, 17):
        exact = offer(1, num_gpus=gpus, gpu_price=Micro(1_000_001))
        snapshot = built([(exact, {})])
        for micro_per_gpu in range(1_000_001 // gpus - 3, 1_000_001 // gpus + 4):
            for fraction in (0, 0.1, 0.25, 1 / 3, 0.5, 2 / 3, 0.9):
                wanted = OfferFilter(max_price=(micro_per_gpu + fraction) / 1_000_000)
                assert bool(snapshot.select(wanted).total) == (wanted.rejects(exact) == "")


def test_a_price_of_zero_finds_free_offers_only() -> None:
    snapshot = built([(offer(1, gpu_price=Micro(0)), {}), (offer(2, gpu_price=Micro(1)), {})])
    assert [each.id for each in snapshot.select(OfferFilter(max_price=0)).offers] == ["vast-1"]


def test_encoded_forms_come_in_the_order_of_the_offers() -> None:
    offers = varied(1, 40)
    snapshot = built([(each, {"row": f"{each.id};".encode()}) for each in offers], ("row",))
    for disk_gb in (50, 40):
        selection = snapshot.select(OfferFilter(max_price=10, disk_gb=disk_gb))
        assert selection.total > 10
        assert selection.joined("row") == b"".join(selection.encoded("row"))
        assert selection.joined("row").decode().split(";")[:-1] == [each.id for each in selection.offers]


def test_equal_prices_are_listed_by_number_in_whatever_order_they_came() -> None:
    offers = [offer(number) for number in (10, 9, 100, 2)]
    snapshot = built([(each, {}) for each in offers])
    assert [each.id for each in snapshot.offers] == ["vast-2", "vast-9", "vast-10", "vast-100"]


def test_chunks_that_overlap_a_taken_one_are_hidden_with_it_and_others_are_not() -> None:
    offers = nested(iter(range(1, 99)), "m", 4, (1, 2, 4)) + nested(iter(range(100, 199)), "n", 4, (4,))
    snapshot = built([(each, {}) for each in offers])
    pair = next(each for each in offers if each.num_gpus == 2)
    left = snapshot.select(OfferFilter(max_price=1), snapshot.sharing(pair))
    assert sorted((each.machine_id, each.num_gpus) for each in left.offers) == [("m", 1), ("m", 1), ("m", 2), ("n", 4)]
    assert left.available_gpus == 6
    assert left.rejected == {}


def test_an_offer_without_conflict_keys_hides_nothing_when_it_is_taken() -> None:
    endless = offer(1, conflict_keys=())
    assert built([(endless, {})]).sharing(endless) == 0


def test_an_empty_market_answers() -> None:
    selection = built([], ("row",)).select(OfferFilter(max_price=1, providers=frozenset({VAST}), min_vram=24))
    assert (selection.total, selection.offers, selection.joined("row"), selection.available_gpus) == (0, (), b"", 0)


def test_a_view_gives_repeated_questions_the_same_answer_and_forgets_old_ones() -> None:
    view = View(built([(offer(1), {})]), hidden=0)
    first = view.select(OfferFilter(max_price=1))
    assert view.select(OfferFilter(max_price=1)) is first
    for price in range(2, 40):
        view.select(OfferFilter(max_price=price))
    assert view.select(OfferFilter(max_price=1)) is not first


def test_an_answer_is_kept_as_time_passes_until_an_offer_ends() -> None:
    view = View(built([(offer(1, expires_at=NOON), {}), (offer(2), {})]), 0)
    wanted = OfferFilter(max_price=1)
    before = view.select(wanted, NOON - timedelta(hours=1))
    assert view.select(wanted, NOON) is before
    after = view.select(wanted, NOON + timedelta(seconds=1))
    assert ([each.id for each in after.offers], after.rejected) == (["vast-2"], {"ends_too_soon": 1})
    assert view.select(wanted, NOON + timedelta(days=1)) is after
    assert [each.id for each in view.select(wanted, NOON).offers] == ["vast-1", "vast-2"]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 127, 128, 129, 1000])
def test_masks_hold_rows(count: int) -> None:
    rows = sorted(random.Random(count).sample(range(2000), count))
    assert places_in(mask_of(rows)) == rows


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 700])
def test_a_column_of_numbers_knows_what_is_at_least_a_bound(count: int) -> None:
    dice = random.Random(count)
    values = [dice.randrange(50) / 2 for _ in range(count)]
    column = finish(Ordered.of(values))
    for bound in range(-1, 27):
        assert places_in(column.at_least(bound)) == [row for row, value in enumerate(values) if value >= bound]


def test_a_column_of_names_keeps_only_so_many_answers() -> None:
    column: Named[str] = finish(Named.of(["a", "b", "a"]))
    for number in range(1000):
        assert column.matching(f"a{number}", lambda wanted, value: wanted.startswith(value)) == 0b101
    assert column.equal("b") == 0b010
    assert column.equal("c") == 0
    assert len(column._kept) <= 128


def finish(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
