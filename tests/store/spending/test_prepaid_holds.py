"""What is paid in advance is held whole, however many hours one booking buys."""

import pytest

from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.reasons import Reason
from gpuproxy.store import limits
from tests.prepaid import PrepaidWorld, in_prepaid_world
from tests.store.spending.test_admission import DOLLAR, limit, put, tried, usage


async def price_of_hour(world: PrepaidWorld) -> int:
    """The price of the only machine for an hour."""
    return int((await world.lease()).observed.price)


async def lead_of(world: PrepaidWorld) -> int:
    """How long before its use time of the only machine is paid at most, as its hold has it."""
    lease = await world.lease()
    hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
    assert hold is not None
    return hold.lead


@pytest.mark.parametrize("hours", [1, 24, 168])
def test_a_create_holds_all_hours_that_it_books_also_in_a_short_window(hours: int) -> None:
    async def story(world: PrepaidWorld) -> None:
        choice = (await world.reserve(2, dry_run=True)).reservation.decision
        assert choice is not None
        price = sum(pick.price for pick in choice.picks)
        await put(world, limit((hours - 0.5) * price / DOLLAR, "1h"))
        assert isinstance(await tried(world, 2), BudgetExceeded)
        await put(world, limit(hours * price / DOLLAR, "1h"))
        await world.rent()
        found = await usage(world, limit(1, "1h"))
        assert found.spent == world.market_.machine["paid"] == hours * price
        assert found.spent + found.held <= hours * price

    in_prepaid_world(story, hours=hours)


@pytest.mark.parametrize("fits", [True, False])
def test_an_extension_of_many_hours_is_bought_only_if_a_short_window_allows_all_of_them(fits: bool) -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        price = await price_of_hour(world)
        allowed = (12.0 if fits else 11.5) * price
        await world.sleep(2 * 3600)
        await put(world, limit(allowed / DOLLAR, "1h"))
        most = 0
        for _ in range(11 * 30):
            await world.sleep(120)
            found = await usage(world, limit(1, "1h"))
            most = max(most, found.spent)
        assert (most > 0) is fits
        assert most <= allowed

    in_prepaid_world(story, hours=12)


def test_a_start_with_more_hours_to_a_booking_holds_more_for_older_machines() -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        price = await price_of_hour(world)
        await world.kill()
        world.settings = world.settings.model_copy(update={"prepaid_hours": 6})
        await world.start()
        await put(world, limit(5.5 * price / DOLLAR, "30m"))
        await world.sleep(3300)
        assert await lead_of(world) == limits.booked_ahead(1)
        assert len(world.market_.extended) == 0, "six hours do not fit in it, although the extension is due"
        await put(world, limit(6 * price / DOLLAR, "30m"))
        await world.sleep(240)
        assert len(world.market_.extended) == 1
        assert (await usage(world, limit(1, "30m"))).spent == 6 * price
        assert await lead_of(world) == limits.booked_ahead(6), "a short window counts all hours of the next one, too"

    in_prepaid_world(story, hours=1)


@pytest.mark.parametrize("allowed", [2.0, 1.1])
def test_a_price_that_reads_of_the_booking_show_to_have_risen_is_held_or_ends_the_machine(allowed: float) -> None:
    async def story(world: PrepaidWorld) -> None:
        world.market_.fee = 250_000
        made = await world.rent(lease=2 * 3600)
        await put(world, limit(allowed, "24h"))
        await world.sleep(300)
        lease = await world.lease()
        hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
        assert await price_of_hour(world) == 750_000
        if allowed < 2:
            assert (lease.state, lease.reason) == (LeaseState.RELEASED, Reason.BUDGET_EXCEEDED)
        else:
            assert made.kept
            assert hold is not None
            assert (lease.state, hold.rate) == (LeaseState.ACTIVE, 750_000)

    in_prepaid_world(story)
