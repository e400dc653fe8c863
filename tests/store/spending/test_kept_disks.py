"""What a machine costs after its end, while it is kept stopped, is held from its create on."""

from datetime import timedelta

import pytest

from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded, cost, held, window
from gpuproxy.model.reservations import ReservationView
from gpuproxy.store import leases, limits
from gpuproxy.store.rows import micros
from tests.store.spending.test_admission import DOLLAR, HOUR, P1, limit, put, tried, usage
from tests.world import World, in_world

DAY = timedelta(days=1)
DAY_HOURS = 24.0
HOUR_US = 3_600_000_000


async def kept(world: World, lease: float = HOUR) -> Lease:
    """A machine whose end stops it, and destroys it a day later."""
    made = await world.reserve(1, lease=lease, lease_grace=DAY)
    return made.leases[0]


async def now_of(world: World, lease: Lease) -> Lease:
    return await world.db.read(lambda tx: leases.get(tx, lease.id))


@pytest.mark.parametrize("grace", [DAY, timedelta(0)])
def test_the_disk_of_the_time_after_the_end_is_held_from_the_create_on(grace: timedelta) -> None:
    async def story(world: World) -> None:
        lease = (await world.reserve(1, lease=HOUR, lease_grace=grace)).leases[0]
        found = await usage(world, limit(1, "30d"))
        disk = lease.observed.disk_price * grace / timedelta(hours=1)
        assert lease.observed.disk_price > 0
        assert found.spent + found.held == pytest.approx(lease.observed.price + disk, rel=0.001)

    in_world(story)


def test_a_limit_that_has_room_for_the_lease_and_not_for_its_disk_afterwards_refuses() -> None:
    async def story(world: World) -> None:
        lease = await kept(world)
        held = (await usage(world, limit(1, "30d"))).held
        await put(world, limit((held + 3 * lease.observed.price) / DOLLAR, "30d"))
        assert isinstance(await tried(world, lease=HOUR, lease_grace=DAY), BudgetExceeded)
        assert isinstance(await tried(world, lease=HOUR), ReservationView)

    in_world(story)


def test_a_short_window_holds_the_highest_price_for_its_length_and_not_the_disk_of_a_day() -> None:
    async def story(world: World) -> None:
        lease = await kept(world, 10 * HOUR)
        found = await usage(world, limit(1, "1h"))
        assert found.spent + found.held == pytest.approx(lease.observed.price, rel=0.001)

    in_world(story)


def test_the_disk_is_held_in_the_month_in_which_it_is_paid() -> None:
    async def story(world: World) -> None:
        ends = (world.clock.now().replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
        left = (ends.replace(microsecond=0) - world.clock.now()).total_seconds()
        lease = await kept(world, left - 6 * HOUR)
        found = await usage(world, limit(1, "month"))
        of_lease = lease.observed.price * (left / HOUR - 6)
        assert found.spent + found.held == pytest.approx(of_lease + 6 * lease.observed.disk_price, rel=0.001)
        hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
        assert hold is not None
        now = micros(world.clock.now())
        later = next(span for span in window("month").spans(now, hold.kept_until) if span.since > now)
        assert held(hold, window("month"), later, now, lambda *_: 0) == cost(lease.observed.disk_price, 18 * HOUR_US)

    in_world(story)


def test_spent_and_held_together_do_not_rise_after_the_end() -> None:
    async def story(world: World) -> None:
        lease = (await world.reserve(1, lease=HOUR, lease_grace=timedelta(hours=1))).leases[0]
        before = await usage(world, limit(1, "30d"))
        most = 0
        for _ in range(13):
            await world.sleep(600)
            found = await usage(world, limit(1, "30d"))
            most = max(most, found.spent + found.held)
        assert (await now_of(world, lease)).state is LeaseState.RELEASED
        late = lease.observed.price * 120 / HOUR  # the stop and the destroy take a moment
        assert most <= before.spent + before.held + late
        assert (await usage(world, limit(1, "30d"))).held == 0
        assert world.market["bill_micro_usd"] <= before.spent + before.held + late

    in_world(story)


def test_a_machine_that_is_kept_stopped_holds_its_disk_until_it_is_destroyed_also_after_a_restart() -> None:
    async def story(world: World) -> None:
        lease = await kept(world)
        await world.sleep(HOUR + 120)
        assert (await now_of(world, lease)).state is LeaseState.PARKED
        await world.restart()
        found = await usage(world, limit(1, "30d"))
        assert found.held == pytest.approx(lease.observed.disk_price * DAY_HOURS, rel=0.01)

    in_world(story)


def test_a_start_before_the_end_holds_the_disk_afterwards_too() -> None:
    async def story(world: World) -> None:
        lease = await kept(world, 10 * HOUR)
        await world.sleep(600)
        await world.engine.machines.stop(P1, lease.provider, str((await now_of(world, lease)).instance_id))
        await world.sleep(60)
        assert (await now_of(world, lease)).state is LeaseState.PARKED
        disk = lease.observed.disk_price * 33.8
        assert (await usage(world, limit(1, "30d"))).held == pytest.approx(disk, rel=0.01)
        await world.engine.machines.start(P1, lease.provider, str((await now_of(world, lease)).instance_id))
        found = await usage(world, limit(1, "30d"))
        dearer = 9.8 * (lease.observed.price - lease.observed.disk_price)
        assert found.held == pytest.approx(disk + dearer, rel=0.01)

    in_world(story)


def test_an_extension_holds_no_disk_after_the_new_end_because_that_destroys() -> None:
    async def story(world: World) -> None:
        lease = await kept(world)
        assert lease.expires_at is not None
        end = lease.expires_at + timedelta(hours=1)
        await world.engine.reservations.extend(P1, lease.reservation_id, end)
        found = await usage(world, limit(1, "30d"))
        assert found.spent + found.held == pytest.approx(2 * lease.observed.price, rel=0.001)

    in_world(story)


def test_an_extension_that_is_not_written_keeps_the_disk_held() -> None:
    async def story(world: World) -> None:
        lease = await kept(world)
        await world.sleep(120)
        assert lease.expires_at is not None
        world.arm("label", "status_before", times=1)
        with pytest.raises(Exception, match="not extended"):
            await world.engine.reservations.extend(P1, lease.reservation_id, lease.expires_at + timedelta(hours=1))
        found = await usage(world, limit(1, "30d"))
        both = lease.observed.price + DAY_HOURS * lease.observed.disk_price
        assert found.spent + found.held == pytest.approx(both, rel=0.01)

    in_world(story)
