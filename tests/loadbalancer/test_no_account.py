"""A marketplace without a configured account: the refusal does not suggest a repeat, which could not succeed."""

import pytest

from gpuproxy.catalog.refresh import Catalog
from gpuproxy.model.errors import FailedPrecondition, Refusal, Unavailable
from gpuproxy.model.offers import OfferFilter, ProviderName
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import LIVELY, World, demand, in_world

IONET = frozenset({ProviderName("io.net")})


def told(refusal: Refusal) -> tuple[type[Refusal], str, str, dict[str, str]]:
    return type(refusal), refusal.reason, refusal.message, refusal.metadata


def test_listing_offers_without_an_account_is_refused_like_renting():
    async def story(world: World) -> None:
        with pytest.raises(FailedPrecondition) as renting:
            await world.reserve(1, providers=IONET)
        with pytest.raises(FailedPrecondition) as looking:
            await world.engine.catalog.market(demand(1, providers=IONET).filter)
        assert told(looking.value) == told(renting.value)
        assert looking.value.reason == "NO_ACCOUNT"
        assert "io.net" in looking.value.message

    in_world(story, settings=LIVELY)


def test_a_market_with_an_account_is_shown_whatever_else_was_asked_for():
    async def story(world: World) -> None:
        both = OfferFilter(max_price=100, providers=IONET | {ProviderName("vast.ai")})
        assert (await world.engine.catalog.market(both)).select(both).total > 0

    in_world(story, settings=LIVELY)


def test_without_any_account_the_error_says_so():
    async def story(clock: VirtualClock) -> None:
        with pytest.raises(FailedPrecondition, match="No account is configured for any provider"):
            await Catalog([], clock, {}).market(OfferFilter())

    run_virtual(story)


def test_a_market_that_refuses_our_keys_is_not_reported_as_unanswering():
    async def story(world: World) -> None:
        world.arm("search", "auth_error", times=1000)
        await world.sleep(900)
        for asked in (world.engine.catalog.market(demand(1).filter), world.reserve(1)):
            with pytest.raises(FailedPrecondition, match=r"vast\.ai does not accept the server's key") as refused:
                await asked
            assert refused.value.reason == "PROVIDER_CREDENTIALS"
        world.control("DELETE", "faults")
        await world.sleep(900)
        await world.reserve(1)

    in_world(story, settings=LIVELY)


def test_a_market_that_does_not_answer_is_reported_so_whatever_it_answered_before():
    async def story(world: World) -> None:
        world.arm("search", "auth_error", times=1)
        await world.sleep(60)
        world.arm("search", "reset_before", times=1000)
        await world.sleep(900)
        with pytest.raises(Unavailable, match="silent for"):
            await world.engine.catalog.market(demand(1).filter)

    in_world(story, settings=LIVELY)
