"""A dry run, CheckSpendingLimit, GetSpendingInfo and a reservation agree, for random limits and demands."""

import random
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.limits import BudgetExceeded, SpendingLimit, cost, window
from gpuproxy.model.money import Micro
from gpuproxy.model.pool_calls import ProvisionDemand
from gpuproxy.model.pools import PoolSpec, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationView
from gpuproxy.store import spend_limits
from tests.store.spending.test_admission import DOLLAR, HOUR, limit, put, usage
from tests.warmpool.test_life import PRICE, a_host
from tests.world import VAST, World, demand, in_world

HOLD = 3600.0
P1 = Caller(project="p1", key_id="key-1")


async def reserved(world: World, count: int, **wanted: Any) -> ReservationView | FailedPrecondition:
    caller = Caller(project="p1", key_id="key-1", deadline=world.clock.monotonic() + 120)
    try:
        return await world.engine.reserver.reserve(caller, demand(count, **wanted))
    except FailedPrecondition as refusal:
        return refusal


async def only(world: World, *wanted: SpendingLimit) -> None:
    """These limits and no others."""
    for each in await world.db.read(spend_limits.listed):
        await put(world, limit(0, each.window.name, scope=each.scope, subject=each.subject))
    await put(world, *wanted)


def amount_of(view: ReservationView, period: str, lease: float | None) -> int:
    """What a planned reservation holds within a window."""
    assert view.reservation.decision is not None
    seconds = min(lease or HOLD, window(period).length / 1e6)
    return sum(cost(pick.price, round(seconds * 1e6)) for pick in view.reservation.decision.picks)


def same(one: ReservationView | FailedPrecondition, other: ReservationView | FailedPrecondition) -> bool:
    if isinstance(one, FailedPrecondition) and isinstance(other, FailedPrecondition):
        return (one.reason, one.metadata) == (other.reason, other.metadata)
    return isinstance(one, ReservationView) and isinstance(other, ReservationView)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(8))
def test_a_dry_run_a_check_and_a_reservation_agree(seed: int) -> None:
    chosen = random.Random(seed)

    async def story(world: World) -> None:
        for number in range(6):
            count, period = chosen.randint(1, 3), chosen.choice(("5m", "1h", "24h", "7d"))
            lease = chosen.choice((None, 600.0, HOUR, 30 * HOUR))
            wanted: dict[str, Any] = {} if lease is None else {"lease": lease}
            await only(world)
            plan = await reserved(world, count, dry_run=True, **wanted)
            assert isinstance(plan, ReservationView)
            needs = amount_of(plan, period, lease)
            scope = chosen.choice(("global", "project", "key"))
            subject = {"global": "", "project": "p1", "key": "key-1"}[scope]
            found = await usage(world, limit(1, period, scope=scope, subject=subject))  # type: ignore[arg-type]
            amount = found.spent + found.held + needs + chosen.choice(((0, 1, needs), (-needs // 2, -1))[number % 2])
            policy = chosen.choice(("stop_newest", "no_new", "warn", "release_newest"))
            set_to = limit(amount / DOLLAR, period, scope=scope, subject=subject, policy=policy)  # type: ignore[arg-type]
            await only(world, set_to)
            refused = await world.engine.money.limits.check(P1, Micro(needs))
            shown = (await world.engine.money.limits.windows(P1))[0]
            left = next((each.usage.left for each in shown if each.usage.limit.amount), 0)
            dry = await reserved(world, count, dry_run=True, **wanted)
            created = world.created()
            real = await reserved(world, count, **wanted)
            assert same(dry, real), (dry, real)
            assert bool(refused) is isinstance(real, BudgetExceeded)
            assert (left < needs and policy != "warn") is isinstance(real, BudgetExceeded)
            if isinstance(real, BudgetExceeded):
                assert world.created() == created
            await world.sleep(chosen.choice((1, 60)))

    in_world(story)


def test_a_dry_run_stores_nothing_and_is_refused_by_a_quota_too() -> None:
    async def story(world: World) -> None:
        from gpuproxy.model.quotas import Quota

        await world.db.write(lambda tx: spend_limits.use_settings(tx, (), (Quota(project="p1", gpus=2),)))
        refused = await reserved(world, 3, dry_run=True)
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason == Reason.QUOTA_EXCEEDED
        assert isinstance(await reserved(world, 2, dry_run=True), ReservationView)
        assert (await world.reservations(), await world.leases()) == (0, ())

    in_world(story)


async def provision(world: World, host: int, *, dry_run: bool) -> PoolState | FailedPrecondition:
    spec = PoolSpec(max_price=PRICE)
    wanted = ProvisionDemand(machine_id=1, host_machine_id=host, provider=VAST, spec=spec, dry_run=dry_run)
    caller = Caller(project="p1", key_id="key-1", deadline=world.clock.monotonic() + 600)
    try:
        view, _ = await world.engine.pools.provision(caller, wanted)
    except FailedPrecondition as refusal:
        return refusal
    return view.pool.state


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("part", "fits"), [(0.3, False), (0.9, False), (0.999, False), (1.0, True), (2.0, True)])
def test_a_dry_run_of_a_pool_and_its_provisioning_agree_and_a_refusal_rents_nothing(part: float, fits: bool) -> None:
    async def story(world: World) -> None:
        await world.sleep(5)
        host = await a_host(world)
        wanted = ProvisionDemand(
            machine_id=1, host_machine_id=host, provider=VAST, spec=PoolSpec(max_price=PRICE), dry_run=True
        )
        _, plan = await world.engine.pools.provision(P1, wanted)
        assert plan.primary_price is not None
        assert plan.volume_price is not None
        needs = 3 * plan.primary_price + 30 * 24 * plan.volume_price
        await put(world, limit(part * needs / DOLLAR + 0.000002 * fits, "90d"))
        dry, real = [await provision(world, host, dry_run=each) for each in (True, False)]
        assert isinstance(dry, BudgetExceeded) is isinstance(real, BudgetExceeded) is not fits
        if fits:
            assert real is PoolState.ACTIVE
        else:
            assert world.market["instances"] == []
            assert await world.leases() == ()

    in_world(story)
