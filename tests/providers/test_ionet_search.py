"""Searches at io.net: what a row becomes, which rows are no offers, and what is counted once."""

from typing import Any

import pytest

from gpuproxy.model.errors import ProviderUnavailable
from gpuproxy.model.offers import OfferFilter
from gpuproxy.ports import HttpResponse
from gpuproxy.providers.ionet.configurations import Configuration, configuration_of
from tests.providers.ionet_wires import Api, b200, error_of, found, hardware, on_api, row
from tests.providers.wires import WRONG_ANSWERS, says


def offers(*rows: object, **wanted: Any) -> Any:
    return on_api(lambda provider: found(provider, **wanted), Api(search=hardware(*rows)))


ONE = row(id="12__1", num_cards=1, price=0.3, storage=500)


def test_the_documented_rows_become_offers_with_whole_prices_cheapest_first() -> None:
    found_offers = offers(b200("US"), row(), b200("AU"), ONE)
    assert [(each.id, each.num_gpus, each.gpu_price, each.gpu_model, each.vram_gb) for each in found_offers] == [
        ("ionet-i12:1:US", 1, 300_000, "RTX 4090", 24),
        ("ionet-i12:2:US", 2, 600_000, "RTX 4090", 24),
        ("ionet-sB200_sxm6x8:8:US", 8, 39_920_000, "B200", 192),
        ("ionet-sB200_sxm6x8:8:AU", 8, 39_920_000, "B200", 192),
    ]


def test_a_row_has_its_place_disk_memory_and_supplier() -> None:
    (offer,) = offers(b200("AU"))
    assert (offer.provider, offer.host, offer.machine_id) == ("io.net", "io.net/B200_sxm6x8@AU", "B200_sxm6x8@AU")
    assert (offer.location, offer.max_disk_gb, offer.cpu_cores, offer.ram_gb) == ("AU", 22528, 208, 2900)
    assert offer.extras == {
        "supplier": "external", "interconnect": "sxm6", "hardware_id": "B200_sxm6x8", "nvlink": "true"
    }  # fmt: skip
    assert offer.price(500) == offer.gpu_price  # the disk of a row is included


@pytest.mark.parametrize("bare", [False, True])
def test_both_envelopes_of_a_hardware_list_are_read(bare: bool) -> None:
    api = Api(search=hardware(row(), bare=bare))
    assert len(on_api(found, api)) == 1


@pytest.mark.parametrize(
    "facts", [{"num_cards": 0}, {"price": 0}, {"price": 1e-7}, {"sold_out": True}, {"available_replicas": 0}]
)
def test_a_row_that_is_not_rented_out_is_no_offer(facts: dict[str, object]) -> None:
    assert [each.id for each in offers(row(**facts), b200("US"))] == ["ionet-sB200_sxm6x8:8:US"]


def test_a_row_with_less_disk_than_asked_is_no_offer_for_it() -> None:
    (offer,) = offers(ONE)
    assert OfferFilter(max_price=9, disk_gb=501).rejects(offer) == "disk_gb"
    assert OfferFilter(max_price=9, disk_gb=500).rejects(offer) == ""


@pytest.mark.parametrize("hardware_id", [3, 12, 0, -5, "203", "gpu_1x_l40", "8H100.80S.176V", "A b/ü:-", "B200_sxm6x8"])
@pytest.mark.parametrize("location", ["US", "FI", 9, "9", "New York"])
def test_an_offers_id_keeps_the_json_types(hardware_id: int | str, location: int | str) -> None:
    what = Configuration(hardware=hardware_id, cards=2, location=location)
    assert configuration_of(what.native_id()) == what
    assert configuration_of(what.native_id(7)) == what
    assert all(each.isalnum() or each in "_.:-" for each in what.native_id())


@pytest.mark.parametrize(
    "native", ["", "12", "i12", "i12:2", "x12:2:US", "i12:0:US", "ix:2:US", "s:2:US", "i12:2:US:x"]
)
def test_another_text_is_no_offers_id(native: str) -> None:
    assert configuration_of(native) is None


def test_a_search_for_another_marketplaces_offer_sends_nothing() -> None:
    api = Api()
    assert on_api(lambda provider: found(provider, offer_id="vast-123"), api) == []
    assert api.requests == []


# -- what is counted once


def test_configurations_of_the_same_hardware_and_place_exclude_each_other() -> None:
    one, two, other = offers(ONE, row(), row(location="FI", price=0.7))
    assert set(one.conflict_keys) < set(two.conflict_keys)
    assert len(two.conflict_keys) == 2
    assert set(other.conflict_keys).isdisjoint(two.conflict_keys)


def test_hardware_ids_that_differ_only_in_their_json_type_are_two_offers() -> None:
    ids = [each.id for each in offers(row(), row(deploy_id="12"))]
    assert sorted(ids) == ["ionet-i12:2:US", "ionet-s12:2:US"]


def test_a_later_listing_vouches_for_another_machine() -> None:
    async def twice(provider: Any) -> Any:
        first = await found(provider)
        await provider._clock.sleep(5)
        return first[0], (await found(provider))[0]

    first, second = on_api(twice, Api(search=hardware(row())))
    assert first.id == second.id
    assert set(first.conflict_keys).isdisjoint(second.conflict_keys)


def test_a_known_free_count_makes_as_many_offers_with_keys_of_their_own() -> None:
    found_offers = offers(row(available_replicas=3), ONE)
    pairs = [each for each in found_offers if each.num_gpus == 2]
    assert [each.id for each in pairs] == ["ionet-i12:2:US", "ionet-i12:2:US:1", "ionet-i12:2:US:2"]
    assert len({key for each in pairs for key in each.conflict_keys}) == 6


def test_a_free_count_without_sense_is_bounded_by_what_one_call_may_rent() -> None:
    assert len(offers(row(available_replicas=10**9))) == 8


# -- rows and answers that can't be read


@pytest.mark.parametrize(
    "odd",
    [
        None, 5, "text", [], {}, row(deploy_id=...), row(deploy_id=None), row(deploy_id=True), row(deploy_id=1.5),
        row(location=None), row(price=-1), row(price="free"), row(price=1e12), row(num_cards=-1), row(name=...),
        row(deploy_id="x" * 200),
    ],
)  # fmt: skip
def test_an_unreadable_row_loses_only_itself(odd: object) -> None:
    async def use(provider: Any) -> Any:
        return await found(provider), provider.skipped_offers

    found_offers, skipped = on_api(use, Api(search=hardware(odd, row(), ONE)))
    assert ([each.id for each in found_offers], skipped) == (["ionet-i12:1:US", "ionet-i12:2:US"], 1)


@pytest.mark.parametrize(
    "facts",
    [
        {"sold_out": None}, {"vram_per_card": "24"}, {"storage": None, "memory": "?"}, {"vcpu": -1}, {"nvlink": "?"},
        {"supplier": 5}, {"num_cards": "2"}, {"price": "0.6"}, {"available_replicas": "many"}, {"interconnect": {}},
    ],
)  # fmt: skip
def test_an_unexpected_field_loses_no_row(facts: dict[str, object]) -> None:
    (offer,) = offers(row(**facts))
    assert (offer.id, offer.gpu_price) == ("ionet-i12:2:US", 600_000)


@pytest.mark.parametrize(
    ("told", "known"),
    [(24, 24), (24 * 1024, 24), (288, 288), (25_769_803_776, 0), (1e13, 0), (1e300, 0), (-24, 0), (None, 0)],
)
def test_an_impossible_memory_is_unknown(told: float | None, known: int) -> None:
    (offer,) = offers(row(vram_per_card=told))
    assert offer.vram_gb == known


def test_mostly_unreadable_rows_are_an_error() -> None:
    assert isinstance(error_of(found, Api(search=hardware(None, {}, row()))), ProviderUnavailable)


@pytest.mark.parametrize("answer", [*WRONG_ANSWERS, says({"data": None}), says({"data": {"hardware": None}})])
def test_another_answer_is_an_error_and_no_empty_market(answer: HttpResponse) -> None:
    error_of(found, Api(search=answer))


def test_of_a_row_that_is_listed_twice_the_higher_price_counts() -> None:
    assert [each.gpu_price for each in offers(row(price=0.5), row(price=0.6), row(price=0.55))] == [600_000]
