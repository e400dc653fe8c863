"""Accounts with regions: which one rents an offer, where keys are regional and where they are not."""

import pytest

from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.offers import OfferFilter
from gpuproxy.runtime.regions import Regions
from tests.world import KEYS, LIVELY, VAST, World, in_world

pytestmark = pytest.mark.long


async def two_places(world: World) -> tuple[str, str]:
    """Two countries with offers."""
    market = await world.engine.catalog.market(OfferFilter(max_price=5.0))
    found = sorted(
        {offer.location.rpartition(",")[2].strip() for offer in market.select(OfferFilter(max_price=5.0)).offers}
    )
    return found[0], found[1]


async def with_regions(world: World, *, regional: bool) -> tuple[str, str]:
    """Give vast-2 the region of the first of two places, and start again."""
    here, there = await two_places(world)
    world.regions = Regions(of={(VAST, "vast-2"): here}, regional={VAST} if regional else frozenset())
    await world.restart()
    return here, there


async def accounts_in(world: World, place: str, name: str) -> set[str]:
    made = await world.reserve(1, request_id=name, location=place)
    return {lease.account for lease in made.kept}


@pytest.mark.parametrize("regional", [False, True])
def test_offers_of_a_region_are_rented_with_its_account_and_others_with_the_other(regional: bool):
    async def story(world: World) -> None:
        here, there = await with_regions(world, regional=regional)
        assert await accounts_in(world, here, "a") == {"vast-2"}
        assert await accounts_in(world, there, "b") == {"vast-1"}

    in_world(story, settings=LIVELY, accounts=2, machines=200)


def test_where_keys_are_not_regional_another_account_helps_out():
    async def story(world: World) -> None:
        here, there = await with_regions(world, regional=False)
        world.arm("create", "insufficient_credit", times=0, account=KEYS[1])
        assert await accounts_in(world, here, "a") == {"vast-1"}
        world.control("DELETE", "faults")
        await world.sleep(200)
        world.arm("create", "insufficient_credit", times=0, account=KEYS[0])
        assert await accounts_in(world, there, "b") == {"vast-2"}

    in_world(story, settings=LIVELY, accounts=2, machines=200)


def test_where_keys_are_regional_no_other_account_sends_the_create():
    async def story(world: World) -> None:
        here, there = await with_regions(world, regional=True)
        world.arm("create", "insufficient_credit", times=0, account=KEYS[1])
        with pytest.raises(FailedPrecondition):
            await world.reserve(1, request_id="a", location=here)
        assert {lease.account for lease in await world.leases()} == {"vast-2"}
        sent = world.calls("create")
        with pytest.raises(FailedPrecondition):
            await world.reserve(1, request_id="b", location=here)
        assert world.calls("create") == sent
        assert await accounts_in(world, there, "c") == {"vast-1"}

    in_world(story, settings=LIVELY, accounts=2, machines=200)


def test_the_market_of_regional_keys_is_read_with_one_account_of_each_region():
    async def story(world: World) -> None:
        here, there = await with_regions(world, regional=True)
        seen: dict[str, int] = {}
        world.overhear.append(
            lambda request: seen.__setitem__(request.headers["Authorization"], 1) if "bundles" in request.url else None
        )
        await world.engine.catalog.step(VAST)
        assert len(seen) == 2
        market = await world.engine.catalog.market(OfferFilter(max_price=5.0))
        assert not market.truncated
        assert market.select(OfferFilter(max_price=5.0, location=here)).offers
        assert market.select(OfferFilter(max_price=5.0, location=there)).offers
        world.arm("search", "html_502", times=0, account=KEYS[1])
        await world.engine.catalog.step(VAST)
        market = await world.engine.catalog.market(OfferFilter(max_price=5.0))
        assert market.select(OfferFilter(max_price=5.0, location=here)).offers  # from the search before
        await world.sleep(400)
        market = await world.engine.catalog.market(OfferFilter(max_price=5.0))
        assert market.truncated

    in_world(story, settings=LIVELY, accounts=2, machines=200)
