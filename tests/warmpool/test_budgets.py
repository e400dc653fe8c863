"""A warm pool under spending limits: what it holds, and what becomes of it when a limit does not allow it to run on."""

from dataclasses import replace
from datetime import timedelta

import pytest

from gpuproxy.billing import horizons
from gpuproxy.model.leases import Lease, LeaseId, LeaseState
from gpuproxy.model.limits import BudgetExceeded, Hold, Over, Policy
from gpuproxy.model.pool_calls import ProvisionDemand
from gpuproxy.model.pools import Degraded, Incident, PoolEvent, PoolSpec, PoolState, PoolView
from gpuproxy.outcomes import spending
from gpuproxy.outcomes.spending import FAILOVER, VOLUME_HORIZON
from gpuproxy.ports import Tx
from gpuproxy.store import leases, limits, pools
from tests.store.spending.test_admission import DOLLAR, limit, put, usage
from tests.warmpool.test_life import PRICE, caller, provisioned, status
from tests.world import VAST, World, in_world

HORIZON = 600.0
LONG = 1500.0
S = LeaseState

pytestmark = pytest.mark.long


def story_of(story, **settings) -> None:  # type: ignore[no-untyped-def]
    in_world(story, settings={"hold_horizon": HORIZON, **settings})


async def hold_of(world: World, lease: Lease | None) -> Hold:
    assert lease is not None
    found = await world.db.read(lambda tx: limits.hold_of(tx, LeaseId(lease.id)))
    assert found is not None
    return found


async def a_pool(world: World) -> PoolView:
    await world.sleep(5)
    view = await provisioned(world)
    assert view.pool.state is PoolState.ACTIVE
    return view


async def budget(world: World, hours: float, policy: Policy) -> int:
    """A limit that lets the pool's primary run for so many hours, all else included."""
    view = await status(world)
    assert view.primary is not None
    now = await usage(world, limit(1, "30d"))
    amount = now.spent + now.held + round(hours * view.primary.observed.price)
    await put(world, limit(amount / DOLLAR, "30d", policy=policy))
    return amount


def test_a_pool_holds_its_horizon_thirty_days_of_its_volume_and_one_hour_of_a_second_machine() -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        assert view.primary is not None
        assert view.volume is not None
        primary, standby, volume = [await hold_of(world, each) for each in (view.primary, view.standby, view.volume)]
        now = world.clock.now().timestamp()
        price = view.primary.observed.price
        assert primary.rate == price
        assert primary.extra == round(price * FAILOVER / timedelta(hours=1))
        assert HORIZON / 2 < primary.until / 1e6 - now <= HORIZON
        assert standby.rate == view.standby.observed.disk_price  # type: ignore[union-attr]
        assert standby.extra == 0
        assert volume.rate == view.volume.observed.price > 0
        days = VOLUME_HORIZON / timedelta(days=1)
        assert days - 1 <= (volume.until / 1e6 - now) / 86_400 <= days

    story_of(story)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("policy", ["stop_newest", "release_newest"])
def test_a_pool_whose_horizon_is_refused_has_both_machines_stopped_and_nothing_released(policy: Policy) -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        allowed = await budget(world, 0.1, policy)
        await world.sleep(LONG)
        now = await status(world)
        assert (now.pool.state, now.pool.degraded) == (PoolState.DEGRADED, Degraded.OVER_BUDGET)
        assert "limit" in now.pool.error
        assert [now.primary, now.standby, now.volume] != [None, None, None]
        assert now.primary is not None
        assert now.standby is not None
        assert now.volume is not None
        assert (now.primary.state, now.standby.state, now.volume.state) == (S.PARKED, S.PARKED, S.ACTIVE)
        assert now.primary.id == view.primary.id  # type: ignore[union-attr]
        assert now.volume.id == view.volume.id  # type: ignore[union-attr]
        assert {row["status"] for row in world.alive().values()} == {"stopped"}
        found = await usage(world, limit(1, "30d"))
        assert found.spent <= allowed

    story_of(story)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("policy", ["warn", "no_new"])
def test_a_policy_that_ends_nothing_lets_a_pool_run_on(policy: Policy) -> None:
    async def story(world: World) -> None:
        await a_pool(world)
        await budget(world, 0.1, policy)
        await world.sleep(LONG)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    story_of(story)


def test_a_pool_within_its_limit_runs_on() -> None:
    async def story(world: World) -> None:
        await a_pool(world)
        await budget(world, 50, "stop_newest")
        await world.sleep(LONG)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    story_of(story)


def test_a_pool_that_was_stopped_runs_again_once_it_is_provisioned_under_a_higher_limit() -> None:
    async def story(world: World) -> None:
        host = (await a_pool(world)).pool.host.rpartition("/")[2]
        await budget(world, 0.1, "stop_newest")
        await world.sleep(LONG)
        assert (await status(world)).pool.degraded is Degraded.OVER_BUDGET
        await put(world, limit(1000, "30d"))
        await world.sleep(600)
        assert (await status(world)).pool.degraded is Degraded.OVER_BUDGET, "nothing starts by itself"
        view = await provisioned(world, host=int(host))
        assert view.pool.state is PoolState.ACTIVE
        assert (await hold_of(world, view.primary)).rate == view.primary.observed.price  # type: ignore[union-attr]

    story_of(story)


@pytest.mark.parametrize("limited", ["k1", "k2"])
def test_a_pool_is_checked_against_the_limits_of_the_key_that_provisioned_it_first(limited: str) -> None:
    """That key's limits count all that the pool ever rents, whoever provisions it again."""

    async def story(world: World) -> None:
        view = await a_pool(world)
        await world.engine.pools.disable(caller(world), 123)
        created = world.created()
        await put(world, limit(0.0001, "30d", policy="no_new", scope="key", subject=limited))
        again = ProvisionDemand(
            machine_id=123, host_machine_id=view.pool.host_number or 0, provider=VAST, spec=PoolSpec(max_price=PRICE)
        )
        second = replace(caller(world), key_id="k2")
        if limited == "k1":
            with pytest.raises(BudgetExceeded):
                await world.engine.pools.provision(second, again)
            assert ((await status(world)).pool.state, world.created()) == (PoolState.DISABLED, created)
            return
        assert (await world.engine.pools.provision(second, again))[0].pool.state is PoolState.ACTIVE
        holds = await world.db.read(lambda tx: limits.all_holds(tx, None))
        assert {each.key_id for each in holds} == {"k1"}

    story_of(story)


def test_a_failover_is_paid_for_out_of_what_is_held_beside_the_primary() -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        now = await usage(world, limit(1, "30d"))
        await put(world, limit((now.spent + now.held) / DOLLAR, "30d"))
        result = await world.engine.pools.failover(caller(world), 123, allow_unfenced=False)
        assert result.view.pool.state in (PoolState.ACTIVE, PoolState.DEGRADED)
        assert result.view.primary is not None
        assert result.view.primary.id != view.primary.id  # type: ignore[union-attr]
        found = await usage(world, limit(1, "30d"))
        assert found.spent + found.held <= now.spent + now.held

    story_of(story)


async def exactly_what_is_spent_and_held(world: World) -> None:
    now = await usage(world, limit(1, "30d"))
    await put(world, limit((now.spent + now.held) / DOLLAR, "30d", policy="no_new"))


def test_a_standby_that_does_not_start_gives_the_money_of_the_failover_back_to_the_pool() -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        assert view.primary is not None
        assert view.standby is not None
        held = await hold_of(world, view.primary)
        primary, standby = view.primary, view.standby
        await exactly_what_is_spent_and_held(world)
        await world.db.write(lambda tx: spending.admit_takeover(tx, primary, standby, FAILOVER))
        assert (await hold_of(world, primary)).extra == 0
        await world.db.write(lambda tx: spending.takeover_failed(tx, primary, standby))
        assert await hold_of(world, primary) == held
        assert (await hold_of(world, standby)).rate == standby.observed.disk_price

    story_of(story)


def test_an_old_primary_whose_disk_costs_nothing_does_not_make_the_takeover_unpriceable() -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        assert view.primary is not None
        assert view.standby is not None
        primary, standby = view.primary, view.standby
        free = replace(await hold_of(world, primary), rate=0, gpus=0)
        await world.db.write(lambda tx: limits.save_lower(tx, free))
        await put(world, limit(1000, "30d"))
        await world.db.write(lambda tx: spending.admit_takeover(tx, primary, standby, FAILOVER))
        assert (await hold_of(world, standby)).rate == standby.observed.price
        assert (await hold_of(world, primary)).extra == 0

    story_of(story)


def test_the_old_primary_is_started_again_with_the_money_of_the_failover() -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        assert view.primary is not None
        primary = view.primary
        await exactly_what_is_spent_and_held(world)
        await world.db.write(lambda tx: spending.admit_takeover(tx, primary, primary, FAILOVER))
        found = await hold_of(world, primary)
        assert (found.rate, found.extra) == (primary.observed.price, 0)

    story_of(story)


def test_the_primary_of_a_disabled_pool_is_stopped_and_kept_when_its_horizon_is_refused() -> None:
    async def story(world: World) -> None:
        view = await a_pool(world)
        await world.engine.pools.disable(caller(world), 123)
        allowed = await budget(world, 0.1, "release_newest")
        await world.sleep(LONG)
        lease = await world.db.read(lambda tx: leases.get(tx, view.primary.id))  # type: ignore[union-attr]
        volume = await world.db.read(lambda tx: leases.get(tx, view.volume.id))  # type: ignore[union-attr]
        assert (lease.state, volume.state) == (S.PARKED, S.ACTIVE)
        assert (await usage(world, limit(1, "30d"))).spent <= allowed

    story_of(story)


def test_a_pool_whose_failover_is_suspended_is_stopped_too() -> None:
    """The old primary could not be proven stopped, and it goes on to cost money."""

    async def story(world: World) -> None:
        view = await a_pool(world)
        assert view.primary is not None
        spent = await usage(world, limit(1, "30d"))

        def refused(tx: Tx) -> None:
            now = pools.get(tx, view.pool.id)
            pool = pools.advance(
                tx, now, PoolEvent.STANDBY_LOST, "a test", replace(now, degraded=Degraded.HOST_OFFLINE)
            )
            assert view.primary is not None
            incident = Incident(
                pool_id=pool.id, number=pools.next_number(tx, pool.id), kind="failure", primary=view.primary.id,
                began_at=tx.now(), last_good_at=tx.now(),
            )  # fmt: skip
            pools.insert_incident(tx, incident)
            over = Over(usage=spent, asked=1)
            assert horizons._stop_pool(tx, pool, leases.get(tx, view.primary.id), over)
            assert pools.open_incident(tx, pool.id) is None
            assert not horizons._stop_pool(tx, pool, leases.get(tx, view.primary.id), over), "once is enough"

        await world.db.write(refused)
        await world.sleep(180)
        now = await status(world)
        assert now.pool.degraded is Degraded.OVER_BUDGET
        assert now.primary is not None
        assert now.standby is not None
        assert (now.primary.state, now.standby.state) == (S.PARKED, S.PARKED)

    story_of(story)
