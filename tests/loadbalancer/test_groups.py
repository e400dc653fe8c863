"""same_country and same_model: all GPUs in the cheapest country, or of the cheapest model, that can make the sum."""

from collections.abc import Sequence

import pytest

from gpuproxy.loadbalancer.balancer import Choice, Want
from gpuproxy.loadbalancer.balancer import choose as choose_anywhere
from gpuproxy.loadbalancer.groups import GroupShortage, choose
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.groups import ANY_GROUP, Alike, Group
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, country_of
from gpuproxy.rental import replacements
from tests.flat_leases import changed
from tests.markets import nested, offer
from tests.scenes import lease_of
from tests.world import World, in_world


def priced(number: int, country: str, cents: int) -> Offer:
    place = f"Somewhere, {country}" if country else ""
    return offer(number, location=place, gpu_price=Micro(cents * 10_000))


def chosen(offers: Sequence[Offer], count: int, strategy: str = "lowest_price", *, only: str = "") -> Choice:
    def within(own: Sequence[Offer]) -> Choice:
        return choose_anywhere(Want(count=count), own, {}, strategy)

    return choose(within, offers, COUNTRY, only=Group(country=only))


COUNTRY = Alike(country=True)
MARKET = [
    priced(1, "DE", 10), priced(2, "DE", 90), priced(3, "SE", 20), priced(4, "SE", 21),
    priced(5, "US", 30), priced(6, "US", 30), priced(7, "US", 30), priced(8, "", 1), priced(9, "", 1),
]  # fmt: skip


@pytest.mark.parametrize(("count", "ids"), [(1, "1"), (2, "34"), (3, "567")])
def test_the_cheapest_country_that_has_enough_is_chosen(count: int, ids: str) -> None:
    choice = chosen(MARKET, count)
    assert sorted(pick.native_id() for pick in choice.picks) == list(ids)


def test_offers_without_a_country_do_not_qualify_however_cheap() -> None:
    assert chosen(MARKET, 1).picks[0].id == "vast-1"
    with pytest.raises(GroupShortage) as caught:
        chosen([priced(8, "", 1), priced(9, "", 1)], 1)
    assert (caught.value.group.country, caught.value.available) == ("", 0)


def test_the_strategy_chooses_the_hosts_within_the_country() -> None:
    for strategy in ("round_robin", "least_connections", "weighted_round_robin"):
        choice = chosen(MARKET, 2, strategy)
        assert {country_of(pick.location) for pick in choice.picks} == {"SE"}


def test_offers_of_other_countries_are_counted_and_the_reason_is_noted() -> None:
    decision = chosen(MARKET, 2).decision
    assert dict(decision.rejected) == {"same_country": 7}
    assert decision.notes == ("all in SE: the cheapest of 3 countries that have enough (from $0.4100/h)",)
    assert chosen(MARKET, 3).decision.notes == ("all in US: the only country that has enough (from $0.9000/h)",)


def test_the_best_country_is_named_when_none_has_enough() -> None:
    with pytest.raises(GroupShortage) as caught:
        chosen(MARKET, 4)
    assert (caught.value.group.country, caught.value.available) == ("US", 3)


def test_chunks_of_a_country_must_make_the_exact_sum() -> None:
    pairs = nested(iter(range(20, 40)), "m", 4, (2,), location="Paris, FR", gpu_price=Micro(20_000))
    choice = chosen([*MARKET, *pairs], 3)
    assert {country_of(pick.location) for pick in choice.picks} == {"US"}
    assert {country_of(pick.location) for pick in chosen([*MARKET, *pairs], 4).picks} == {"FR"}


def test_only_the_country_of_kept_machines_is_used_for_a_replacement() -> None:
    assert chosen(MARKET, 1, only="US").picks[0].location == "Somewhere, US"
    with pytest.raises(GroupShortage) as caught:
        chosen(MARKET, 1, only="FR")
    assert caught.value.group.country == "FR"


def test_the_country_of_a_reservation_is_that_of_its_kept_machines() -> None:
    lost = lease_of(1, state=LeaseState.LOST, location="Texas, US")
    kept = lease_of(2, location="Sweden, SE")
    assert replacements.group([lost, kept], COUNTRY) == Group(country="SE")
    assert replacements.group([lost], COUNTRY) == ANY_GROUP
    assert replacements.group([changed(kept, location="")], COUNTRY) == ANY_GROUP
    assert replacements.group([lost, kept], Alike()) == ANY_GROUP


def test_all_machines_of_a_reservation_are_in_one_country() -> None:
    async def story(world: World) -> None:
        anywhere = await world.reserve(6, dry_run=True)
        assert anywhere.reservation.decision is not None
        view = await world.reserve(6, same_country=True)
        places = {country_of(lease.offered.location) for lease in view.leases}
        assert len(places) == 1
        assert "" not in places
        decision = view.reservation.decision
        assert decision is not None
        assert dict(decision.rejected)["same_country"] > 0

    in_world(story, machines=200)


def test_a_refusal_names_the_best_country_and_the_nearest_price_is_enough_within_one() -> None:
    async def story(world: World) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            await world.reserve(8, max_price=0.001, same_country=True)
        assert "asked 8 x any GPU at <=$0.001/GPU-h in one country" in str(caught.value)
        nearest = float(caught.value.metadata["nearest_price"])
        with pytest.raises(FailedPrecondition, match=r"can be rented at once in [A-Z]{2}, the best country") as caught:
            await world.reserve(8, max_price=nearest - 1e-6, same_country=True)
        assert len(caught.value.metadata["country"]) == 2
        assert (await world.reserve(8, max_price=nearest, same_country=True)).leases

    in_world(story, machines=200)


def test_a_replacement_stays_in_the_country() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        view = await world.reserve(
            3, same_country=True, wait_for="ready", seconds=3_000, max_price=0.9, request_id="one"
        )
        assert len(view.leases) > 3
        assert len({country_of(lease.offered.location) for lease in view.leases}) == 1

    in_world(story, machines=300)


# ----------------------------------------------------------------------------------------------------------- same_model


MODEL, BOTH = Alike(model=True), Alike(model=True, country=True)


def made(number: int, model: str, cents: int, *, vram_gb: int = 24, country: str = "DE") -> Offer:
    place = f"Somewhere, {country}"
    return offer(number, gpu_model=model, vram_gb=vram_gb, location=place, gpu_price=Micro(cents * 10_000))


def alike(offers: Sequence[Offer], count: int, rule: Alike, *, only: Group = ANY_GROUP) -> Choice:
    def within(own: Sequence[Offer]) -> Choice:
        return choose_anywhere(Want(count=count), own, {}, "lowest_price")

    return choose(within, offers, rule, only=only)


MODELS = [
    made(1, "RTX 3060", 10), made(2, "RTX 3090", 20), made(3, "RTX 3090", 21), made(4, "A100 PCIE", 90, vram_gb=40),
    made(5, "A100 PCIE", 90, vram_gb=80), made(6, "RTX 3090", 22, country="SE"),
]  # fmt: skip


@pytest.mark.parametrize(("count", "model"), [(1, "RTX 3060"), (2, "RTX 3090"), (3, "RTX 3090")])
def test_the_cheapest_model_that_has_enough_is_chosen(count: int, model: str) -> None:
    assert {pick.gpu_model for pick in alike(MODELS, count, MODEL).picks} == {model}


def test_one_name_with_two_sizes_of_memory_is_two_models() -> None:
    with pytest.raises(GroupShortage) as caught:
        alike(MODELS[3:5], 2, MODEL)
    assert (caught.value.group, caught.value.available) == (Group("A100 PCIE", 40), 1)


def test_without_a_known_model_an_offer_does_not_qualify() -> None:
    with pytest.raises(GroupShortage) as caught:
        alike([made(1, "", 1)], 1, MODEL)
    assert caught.value.group == ANY_GROUP


def test_model_and_country_are_chosen_together() -> None:
    assert [pick.id for pick in alike(MODELS, 2, BOTH).picks] == ["vast-2", "vast-3"]
    with pytest.raises(GroupShortage) as caught:
        alike(MODELS, 3, BOTH)
    assert str(caught.value.group) == "RTX 3090 (24 GB) in DE"


def test_an_offer_is_counted_at_the_first_rule_that_keeps_it_out_of_the_group() -> None:
    decision = alike(MODELS, 2, BOTH).decision
    assert dict(decision.rejected) == {"same_model": 3, "same_country": 1}
    assert decision.notes == (
        "all RTX 3090 (24 GB) in DE: the only pair of model and country that has enough (from $0.4100/h)",
    )
    assert alike(MODELS, 1, MODEL).decision.notes == (
        "all RTX 3060 (24 GB): the cheapest of 4 models that have enough (from $0.1000/h)",
    )


def test_only_the_model_of_kept_machines_is_used_for_a_replacement() -> None:
    kept, lost = lease_of(1, gpu_model="RTX 3090", vram_gb=24), lease_of(2, state=LeaseState.LOST, gpu_model="L4")
    group = replacements.group([lost, kept], MODEL)
    assert group == Group("RTX 3090", 24)
    assert {pick.gpu_model for pick in alike(MODELS, 1, MODEL, only=group).picks} == {"RTX 3090"}
    assert replacements.group([lost], MODEL) == ANY_GROUP


def test_all_machines_of_a_reservation_are_of_one_model_if_asked() -> None:
    async def story(world: World) -> None:
        mixed = await world.reserve(6, min_vram=16)
        assert len({lease.offered.gpu_model for lease in mixed.leases}) > 1
        view = await world.reserve(6, min_vram=16, same_model=True)
        assert len({(lease.offered.gpu_model, lease.offered.vram_gb) for lease in view.leases}) == 1
        decision = view.reservation.decision
        assert decision is not None
        assert dict(decision.rejected)["same_model"] > 0

    in_world(story, machines=200)


def test_a_refusal_for_one_model_names_the_best_model_and_the_rule_without_which_there_are_enough() -> None:
    async def story(world: World) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            await world.reserve(16, min_vram=16, max_price=0.3, same_model=True, same_country=True)
        text = str(caught.value)
        assert "asked 16 x >=16 GB at <=$0.30/GPU-h of one model in one country" in text
        assert "the best pair of model and country" in text
        assert "Without same_model and same_country there are enough." in text
        assert f"of {caught.value.metadata['gpu_model']} ({caught.value.metadata['vram_gb']} GB) in " in text
        assert (await world.reserve(16, min_vram=16, max_price=0.3, dry_run=True)).reservation.decision
        with pytest.raises(FailedPrecondition) as caught:
            await world.reserve(8, max_price=0.001, same_model=True)
        assert "Without" not in str(caught.value)

    in_world(story, machines=200)


def test_a_replacement_is_of_the_same_model() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        view = await world.reserve(
            3, same_model=True, min_vram=16, wait_for="ready", seconds=3_000, max_price=0.9, request_id="one"
        )
        assert len(view.leases) > 3
        assert len({(lease.offered.gpu_model, lease.offered.vram_gb) for lease in view.leases}) == 1

    in_world(story, machines=300)


def test_a_replacement_after_a_refused_create_is_of_the_same_model() -> None:
    async def story(world: World) -> None:
        world.arm("create", "offer_gone", times=1, after=1)
        view = await world.reserve(3, same_model=True, min_vram=16)
        assert [lease.state for lease in view.leases].count(LeaseState.FAILED) == 1
        assert len({(lease.offered.gpu_model, lease.offered.vram_gb) for lease in view.leases}) == 1

    in_world(story, machines=300)
