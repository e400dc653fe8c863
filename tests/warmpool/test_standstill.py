"""A pool that does nothing by itself says so, and what its owner can do."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import LeaseState, Pending
from gpuproxy.model.money import Micro
from gpuproxy.model.pool_calls import ProvisionDemand
from gpuproxy.model.pools import Degraded, PoolSpec, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import record
from gpuproxy.store import leases
from gpuproxy.warmpool.explaining import next_action
from gpuproxy.warmpool.hints import HINTS, NO_PRIMARY, hints
from tests.store.spending.test_admission import limit, put
from tests.warmpool.scenes import NOW, S, incident, lease, scene
from tests.warmpool.test_life import PRICE, caller, provisioned, status
from tests.warmpool.test_recreate import BOOTS, take_all
from tests.world import VAST, World, in_world

D = Degraded


def degraded(why: Degraded, primary: LeaseState | None, **facts: Any) -> PoolView:
    suspended = facts.pop("suspended", False)
    pool = scene(state=PoolState.DEGRADED, primary=primary, pool={"degraded": why, **facts}).pool
    return PoolView(
        pool=pool, primary=None if primary is None else lease("primary", primary),
        incident=incident() if suspended else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("why", "primary"),
    [
        (D.NO_FREE_GPU, S.RELEASED), (D.NO_FREE_GPU, None), (D.NO_STANDBY, S.FAILED), (D.START_FAILED, S.PARKED),
        (D.UNCHECKED, S.LOST), (D.UNKNOWN_OUTCOME, None),
    ],
)  # fmt: skip
def test_a_pool_that_makes_no_primary_by_itself_says_so(why: Degraded, primary: LeaseState | None):
    view = degraded(why, primary)
    assert next_action(view, 2.0) == NO_PRIMARY
    assert NO_PRIMARY in hints(view)
    assert HINTS[why] not in hints(view)


@pytest.mark.parametrize(
    ("why", "primary", "facts"),
    [
        (D.NO_FREE_GPU, S.ACTIVE, {}),
        (D.NO_FREE_GPU, S.RELEASED, {"suspended": True}),
        (D.NO_FREE_GPU, S.RELEASED, {"founded": False}),
        (D.START_FAILED, S.PARKED, {"suspended": True}),
        (D.HOST_OFFLINE, S.RELEASED, {}),
        (D.UNKNOWN_OUTCOME, S.RELEASED, {}),
        (D.NO_HOST, None, {"seeks": True}),
        (D.PROVISION_FAILED, None, {}),
        (D.VOLUME_LOST, S.RELEASED, {}),
        (D.OVER_BUDGET, S.PARKED, {}),
        (D.SECRETS_UNAVAILABLE, S.RELEASED, {}),
        (D.LOW_CREDIT, S.RELEASED, {}),
    ],
)
def test_a_pool_that_goes_on_or_knows_better_does_not(why: Degraded, primary: LeaseState | None, facts: Any):
    view = degraded(why, primary, **facts)
    assert next_action(view, 2.0) == HINTS[why]
    assert hints(view) == [HINTS[why]]


def test_a_stopped_primary_that_is_tried_again_once_its_gpus_are_free_is_no_standstill():
    view = degraded(D.START_FAILED, S.PARKED)
    assert view.primary is not None
    view = replace(view, primary=replace(view.primary, pending=Pending(stop_at=NOW)))
    assert hints(view) == [HINTS[D.START_FAILED]]
    assert view.primary is not None
    dear = replace(view.primary.observed, price=Micro(view.primary.creation.ceiling + 1))
    assert hints(replace(view, primary=replace(view.primary, observed=dear))) == [NO_PRIMARY]


async def without_primary(world: World, obstacle: Callable[[PoolView], Awaitable[None]]) -> PoolView:
    """A pool whose primary was destroyed while it was disabled. An obstacle comes once it is provisioned again."""
    await world.sleep(5)
    view = await provisioned(world)
    await world.engine.pools.disable(caller(world), 123)
    assert view.primary is not None
    gone, host = view.primary.id, view.pool.host_number
    await world.db.write(lambda tx: record.release(tx, leases.get(tx, gone), Reason.DESTROYED))
    await world.sleep(60)
    assert host is not None
    spec = PoolSpec(max_price=PRICE)
    demand = ProvisionDemand(machine_id=123, host_machine_id=host, provider=VAST, spec=spec, wait=False)
    await world.engine.pools.provision(caller(world), demand)
    await obstacle(view)
    await world.sleep(300)
    now = await status(world)
    assert now.pool.state is PoolState.DEGRADED
    return now


def test_a_pool_without_a_primary_waits_for_its_owner_and_has_nothing_to_fail_over_from():
    async def story(world: World) -> None:
        async def take(view: PoolView) -> None:
            take_all(world, view)

        now = await without_primary(world, take)
        assert (now.pool.degraded, now.next_action) == (D.NO_FREE_GPU, NO_PRIMARY)
        with pytest.raises(Refusal, match="was given up") as refusal:
            await world.engine.pools.failover(caller(world), 123, allow_unfenced=True)
        assert refusal.value.reason is Reason.FAILOVER_FAILED
        assert (await status(world)).pool.asked == ""

    in_world(story, **BOOTS)


def test_a_spending_limit_that_allows_no_primary_does_not_look_like_a_missing_standby():
    async def story(world: World) -> None:
        async def limited(_: PoolView) -> None:
            await put(world, limit(0.01, "30d", policy="no_new"))

        now = await without_primary(world, limited)
        assert (now.pool.degraded, now.next_action) == (D.PROVISION_FAILED, HINTS[D.PROVISION_FAILED])
        assert "limit" in now.pool.error

    in_world(story, **BOOTS)
