"""Limits while the host's date is wrong or corrected: a jump makes no room, and nothing runs on unpaid."""

from datetime import UTC, datetime, timedelta

import pytest

from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.reservations import ReservationView
from tests.store.spending.test_admission import DOLLAR, HOUR, P1, limit, put, tried, usage
from tests.world import World, in_world

DAY = 86_400.0
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("jump", [-DAY, 40 * DAY])
def test_a_date_that_jumps_empties_no_window_and_moves_no_hold(jump: float) -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=HOUR)
        price = made.leases[0].observed.price
        await put(world, limit(price / DOLLAR, "24h"), limit(price / DOLLAR, "month"))
        await world.sleep(60)
        before = [await usage(world, limit(1, period)) for period in ("1h", "24h", "month")]
        world.clock.jump(jump)
        assert [await usage(world, limit(1, period)) for period in ("1h", "24h", "month")] == before
        assert isinstance(await tried(world, lease=60.0), BudgetExceeded)

    in_world(story)


def test_a_date_that_jumps_over_a_months_end_begins_no_new_budget_while_the_server_runs() -> None:
    async def story(world: World) -> None:
        await world.reserve(1, lease=120.0)
        await world.sleep(180)
        world.clock.jump(600)
        await world.sleep(110)
        await put(world, limit((await usage(world, limit(1, "month"))).spent / DOLLAR, "month"))
        assert isinstance(await tried(world, lease=60.0), BudgetExceeded)
        await world.sleep(20)
        assert isinstance(await tried(world, lease=60.0), ReservationView), "its end has come"

    in_world(story, start=MARCH - timedelta(seconds=300))


@pytest.mark.parametrize("jump", [-DAY, DAY])
@pytest.mark.parametrize("restarts", [False, True])
def test_a_machine_without_an_end_is_ended_before_its_money_whatever_the_date_says(jump: float, restarts: bool) -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1)
        allowed = round(0.4 * made.leases[0].observed.price)
        await put(world, limit(allowed / DOLLAR, "30d"))
        await world.sleep(120)
        world.clock.jump(jump)
        if restarts:
            await world.restart()
        await world.sleep(1320)
        lost = 120 if restarts and jump < 0 else 0  # a date that was set back continues from the last event
        await world.sleep(lost)
        assert world.alive() == {}
        assert 0 < world.market["bill_micro_usd"] <= allowed + made.leases[0].observed.price * lost / HOUR
        (lease,) = await world.leases()
        assert lease.state is LeaseState.RELEASED

    in_world(story, settings={"hold_horizon": 600.0})


@pytest.mark.parametrize("jump", [-DAY, 0.0, DAY])
def test_an_extension_before_a_jump_of_the_date_lasts_as_long_as_it_was_paid_for(jump: float) -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=600.0)
        await world.sleep(60)
        (lease,) = await world.live()
        assert lease.expires_at is not None
        await world.engine.reservations.extend(P1, made.reservation.id, lease.expires_at + timedelta(seconds=300))
        held = (await usage(world, limit(1, "24h"))).held
        assert held == pytest.approx(lease.observed.price * 840 / HOUR, rel=0.02)
        world.clock.jump(jump)
        assert (await usage(world, limit(1, "24h"))).held == held
        await world.sleep(780)
        assert len(world.alive()) == 1
        await world.sleep(130)
        assert world.alive() == {}
        assert (await usage(world, limit(1, "24h"))).held == 0

    in_world(story)


def test_a_date_that_was_set_back_before_a_restart_undoes_no_posted_hour() -> None:
    """The clock continues from the last thing that the database knows. That is not only the last event of a lease."""

    async def story(world: World) -> None:
        made = await world.reserve(1)
        price = made.leases[0].observed.price
        await world.sleep(1.9 * HOUR)  # an hour was posted, and no event was stored for 1.9 hours
        before = await usage(world, limit(1, "24h"))
        await world.kill()
        world.clock.jump(-DAY)
        await world.start()
        after = await usage(world, limit(1, "24h"))
        assert before.spent - price <= after.spent <= before.spent
        await put(world, limit((after.spent + 0.5 * price) / DOLLAR, "24h"))
        assert isinstance(await tried(world, lease=HOUR), BudgetExceeded)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        cost = (await usage(world, limit(1, "24h"))).spent
        assert world.market["bill_micro_usd"] - price <= cost <= world.market["bill_micro_usd"]
        await world.books_agree()

    in_world(story)
