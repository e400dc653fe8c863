"""The price of a prepaid machine follows from what was paid for its booked hours, and no single read tells it."""

import pytest

from gpuproxy.model.leases import LeaseState
from tests.prepaid import PrepaidWorld, in_prepaid_world

pytestmark = pytest.mark.long

_HOUR = 3600.0
_LIMIT = 0.26
"""USD per GPU and hour; a machine has two GPUs, and costs 0.25 each."""


@pytest.mark.parametrize("factor", [1.05, 2.0])
@pytest.mark.parametrize("hidden", [True, False])
def test_a_price_that_a_single_read_shows_is_neither_judged_nor_stored(factor: float, *, hidden: bool) -> None:
    """The payment of an extension may be shown before its minutes, and minutes are rounded."""

    async def story(world: PrepaidWorld) -> None:
        world.market_.read_factor = factor
        await world.rent(max_price=_LIMIT)
        world.market_.hidden = hidden
        await world.sleep(1.9 * _HOUR)
        lease = await world.lease()
        assert (lease.state, lease.observed.price) == (LeaseState.ACTIVE, 500_000)
        assert len(world.market_.extended) == 2

    in_prepaid_world(story)


@pytest.mark.parametrize("answer", ["ok", "lost_executed"])
@pytest.mark.parametrize(("price", "bought"), [(530_000, 1), (515_000, 2)])
def test_an_extension_above_the_price_limit_is_the_last_one_although_the_average_is_below(
    price: int, bought: int, answer: str
) -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent(max_price=_LIMIT)
        world.market_.fee = 12 * (price - 500_000)
        world.market_.on_extend = [answer]
        await world.sleep(23 * _HOUR)
        lease = await world.lease()
        assert lease.prepaid.paid < 24 * 2 * _LIMIT * 1_000_000
        assert lease.observed.price == price
        await world.sleep(1.5 * _HOUR)
        assert len(world.market_.extended) == bought
        if bought == 1:
            assert (await world.lease()).state is LeaseState.RELEASED, "with its booking"

    in_prepaid_world(story, hours=12)


def test_the_price_of_the_last_booking_counts_whoever_made_it() -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(100)
        world.market_.fee = 300_000
        world.market_._extend(world.market_.machine["machine_id"], 2)
        await world.sleep(300)
        assert (await world.lease()).observed.price == 650_000

    in_prepaid_world(story)
