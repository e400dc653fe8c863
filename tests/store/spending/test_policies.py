"""What each policy does to machines without an end when the next part of their horizon is refused: newest first."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded, Policy
from gpuproxy.model.pools import Degraded, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationView
from gpuproxy.store import limits
from gpuproxy.store.rows import micros
from tests.store.spending.test_admission import DOLLAR, HOUR, limit, put, tried, usage
from tests.warmpool.test_life import provisioned, status
from tests.world import VAST, World, in_world

HORIZON = 600.0
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
S = LeaseState


def story_of(story: Any) -> None:
    in_world(story, settings={"hold_horizon": HORIZON})


async def three(world: World) -> list[Lease]:
    """Three ready machines without an end, oldest first."""
    made = []
    for _ in range(3):
        made += (await world.reserve(1)).leases
        await world.sleep(30)
    return made


async def leave_for(world: World, seconds: float, policy: Policy, **how: Any) -> int:
    """Set a limit that has so many more seconds of all machines than what is spent and held now."""
    now = await usage(world, limit(1, "24h"))
    price = sum(lease.observed.price for lease in await world.live() if lease.kind == "machine")
    allowed = now.spent + now.held + round(price * seconds / HOUR)
    await put(world, limit(allowed / DOLLAR, "24h", policy=policy, **how))
    return allowed


async def ended_in(world: World, seconds: float) -> list[str]:
    """The machines that a limit ends within so many seconds, in this order, by the log."""
    with capture_logs() as lines:
        await world.sleep(seconds)
    by_limit = ("machine_stopped_by_limit", "machine_released_by_limit")
    return [line["lease"] for line in lines if line["event"] in by_limit]


async def states(world: World, of: Sequence[Lease]) -> list[LeaseState]:
    now = {lease.id: lease.state for lease in await world.leases()}
    return [now[lease.id] for lease in of]


@pytest.mark.parametrize(("policy", "becomes"), [("stop_newest", S.PARKED), ("release_newest", S.RELEASED)])
def test_the_newest_machine_ends_first_and_the_oldest_last(policy: Policy, becomes: LeaseState) -> None:
    async def story(world: World) -> None:
        old, middle, new = await three(world)
        allowed = await leave_for(world, 0, policy)
        assert await ended_in(world, 1500) == [new.id, middle.id, old.id]
        await world.sleep(60)
        assert await states(world, (old, middle, new)) == [becomes] * 3
        found = await usage(world, limit(1, "24h"))
        disks = sum(lease.observed.disk_price for lease in (old, middle, new)) * 1500 / HOUR
        assert found.spent <= allowed + (disks if policy == "stop_newest" else 0), "only disks cost money beyond it"
        if policy == "release_newest":
            assert {lease.reason for lease in await world.leases()} == {Reason.BUDGET_EXCEEDED}
            assert world.alive() == {}
        else:
            assert {row["status"] for row in world.alive().values()} == {"stopped"}
            assert len(world.alive()) == 3

    story_of(story)


def test_one_machine_ends_if_that_makes_enough_room_and_the_others_run_on() -> None:
    async def story(world: World) -> None:
        old, middle, new = await three(world)
        await leave_for(world, 60, "release_newest")
        assert await ended_in(world, 420) == [new.id]
        await put(world, limit(1000, "24h"))
        assert await ended_in(world, 900) == []
        assert await states(world, (old, middle)) == [S.ACTIVE] * 2

    story_of(story)


def test_before_a_months_end_no_more_machines_end_than_the_next_month_has_no_room_for() -> None:
    """What a machine still holds in this month is little then, and is no measure of the room that it makes."""

    async def story(world: World) -> None:
        (old,) = (await world.reserve(1)).leases
        await world.sleep(100)
        new = [(await world.reserve(1)).leases[0] for _ in range(3)]
        await world.sleep((MARCH - world.clock.now()).total_seconds() - 25)
        rows = await world.db.read(lambda tx: limits.all_holds(tx, None))
        march = sum(hold.future(micros(MARCH), hold.until) for hold in rows if hold.lease_id != old.id)
        wanted = old.observed.price * (HORIZON - 15) / HOUR  # it is asked for 15 s before March
        room = march + wanted - 30 * new[-1].observed.price / HOUR
        await put(world, limit(room / DOLLAR, "month", policy="release_newest"))
        ended = await ended_in(world, 20)
        assert len(ended) == 1
        assert await states(world, [old]) == [S.ACTIVE]

    in_world(story, settings={"hold_horizon": HORIZON}, start=MARCH - timedelta(seconds=815))


@pytest.mark.parametrize("policy", ["warn", "no_new"])
def test_a_policy_that_ends_nothing_lets_all_run_on_above_the_limit(policy: Policy) -> None:
    async def story(world: World) -> None:
        made = await three(world)
        allowed = await leave_for(world, 0, policy)
        assert await ended_in(world, 900) == []
        assert await states(world, made) == [S.ACTIVE] * 3
        found = await usage(world, limit(1, "24h"))
        assert found.spent + found.held > allowed, "what they cost is held all the same"
        assert found.held >= sum(lease.observed.price for lease in made) * 400 / HOUR
        another = await tried(world, lease=HOUR)
        assert isinstance(another, ReservationView if policy == "warn" else BudgetExceeded)

    story_of(story)


def test_of_two_limits_that_refuse_the_stricter_policy_counts() -> None:
    async def story(world: World) -> None:
        *_, new = await three(world)
        await leave_for(world, 60, "no_new", scope="global")
        await leave_for(world, 60, "release_newest")
        assert await ended_in(world, 420) == [new.id]
        assert await states(world, [new]) == [S.RELEASED]

    story_of(story)


def test_a_machine_of_another_project_makes_no_room_for_a_limit_that_does_not_cover_it() -> None:
    async def story(world: World) -> None:
        mine = (await world.reserve(1)).leases[0]
        await world.sleep(30)
        theirs = (await world.reserve(1, project="p2")).leases[0]
        await world.sleep(30)
        await leave_for(world, -60, "release_newest")
        assert await ended_in(world, 900) == [mine.id]
        assert await states(world, [theirs]) == [S.ACTIVE]

    story_of(story)


def test_a_machine_with_an_end_makes_no_room() -> None:
    """Its end was promised, and its money is held. Known mistake: the newest lease is ended whatever it is."""

    async def story(world: World) -> None:
        old = (await world.reserve(1)).leases[0]
        await world.sleep(30)
        fixed = (await world.reserve(1, lease=2 * HOUR)).leases[0]
        await world.sleep(30)
        await leave_for(world, -60, "release_newest")
        assert await ended_in(world, 900) == [old.id]
        assert await states(world, [fixed]) == [S.ACTIVE]

    story_of(story)


@pytest.mark.long
@pytest.mark.sampled(2)
@pytest.mark.parametrize("policy", ["release_newest", "stop_newest"])
def test_a_newer_pool_makes_no_room_for_an_older_machine_and_its_primary_and_volume_stay(policy: Policy) -> None:
    async def story(world: World) -> None:
        await world.sleep(5)
        plain = (await world.reserve(1)).leases[0]
        await world.sleep(30)
        view = await provisioned(world)
        assert view.pool.state is PoolState.ACTIVE
        assert view.primary is not None
        assert view.volume is not None
        await leave_for(world, -60, policy)
        await world.sleep(700)
        now = await status(world)
        assert now.primary is not None
        assert now.volume is not None
        assert (now.primary.id, now.primary.state) == (view.primary.id, S.PARKED)
        assert (now.volume.id, now.volume.state) == (view.volume.id, S.ACTIVE)
        assert now.pool.degraded is Degraded.OVER_BUDGET
        assert await states(world, [plain]) == [S.PARKED if policy == "stop_newest" else S.RELEASED]
        attached = [row for row in world.market["volumes"] if row["deleted_at"] is None]
        assert len(attached) == 1

    story_of(story)


async def rented(world: World, provider: str) -> Lease:
    """A ready machine without an end at this marketplace."""
    [lease] = (await world.reserve(1, providers=frozenset({provider}))).leases
    await world.sleep(60)
    return lease


def test_a_machine_that_was_paid_in_advance_is_not_ended_for_room_that_it_does_not_make():
    async def story(world: World) -> None:
        old, new = [await rented(world, name) for name in (VAST, "io.net")]
        await leave_for(world, 0, "release_newest")
        assert await ended_in(world, 1200) == [old.id]
        assert await states(world, [old, new]) == [S.RELEASED, S.ACTIVE]

    in_world(story, prepaid_accounts=1, settings={"hold_horizon": HORIZON})
