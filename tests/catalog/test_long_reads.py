"""A market that takes minutes to read (64 offers a search, ten searches a minute) can be used from the first second."""

import pytest

from gpuproxy.model.offers import HIGHEST_PRICE, OfferFilter
from tests.world import LIVELY, World, in_world

pytestmark = pytest.mark.long

_ALL = OfferFilter(max_price=HIGHEST_PRICE, verified_only=False)
_CAPPED = {"paced": True, "machines": 800, "search_page": 64}


async def _known(world: World) -> int:
    return (await world.engine.catalog.market(_ALL)).select(_ALL).total


def test_what_the_first_searches_found_is_shown_at_once():
    async def story(world: World) -> None:
        await world.sleep(2)
        assert await _known(world) > 250

    in_world(story, settings=LIVELY, **_CAPPED)


def test_in_the_first_minute_the_rate_limit_leaves_room_for_a_targeted_search():
    async def story(world: World) -> None:
        await world.sleep(10)
        dear = max(chunk.price for chunk in world.sandbox.market.chunks.values()) / 1e6
        made = await world.reserve(2, min_vram=80, max_price=dear, seconds=60)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 2

    in_world(story, settings=LIVELY, **_CAPPED)


def test_offers_stay_known_while_the_market_is_read_again():
    async def story(world: World) -> None:
        while not (known := await _whole(world)):
            await world.sleep(5)
        for _ in range(40):
            await world.sleep(10)
            assert await _known(world) > 0.9 * known

    in_world(story, settings=LIVELY, **_CAPPED)


async def _whole(world: World) -> int:
    """The number of offers once the market has been read completely; 0 before."""
    market = await world.engine.catalog.market(_ALL)
    return 0 if market.truncated else market.select(_ALL).total
