"""Repeated calls that provision: what joins, what is refused, what is taken, and what a dry run shows."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.errors import FailedPrecondition, Refusal
from gpuproxy.model.pool_calls import EnableDemand, HostQuery, ProvisionDemand
from gpuproxy.model.pools import PoolSecrets, PoolSpec, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from tests.warmpool.test_life import PRICE, a_host, caller, status
from tests.world import VAST, World, in_world

BOOTS = {"boot_time": (3.0, 5.0)}


async def hosts(world: World) -> list[int]:
    """The hosts that can carry a pool, cheapest first."""
    query = HostQuery(max_price=PRICE, provider=VAST, verified_only=False)
    return [each.machine_id for each in await world.engine.pools.hosts(caller(world), query) if each.fits]


def demand_of(host: int, **fields: Any) -> ProvisionDemand:
    """A call for machine 123; what is no field of the demand is one of its specification."""
    own = {name: fields.pop(name) for name in list(fields) if name in ("dry_run", "wait", "secrets")}
    return ProvisionDemand(
        machine_id=123, host_machine_id=host, provider=VAST, spec=PoolSpec(**({"max_price": PRICE} | fields)), **own
    )


async def sent(world: World, demand: ProvisionDemand) -> PoolView:
    return (await world.engine.pools.provision(caller(world), demand))[0]


def rented(world: World) -> tuple[int, int]:
    """How many machines and volumes were ever rented."""
    return len(world.market["instances"]), len(world.market["volumes"])


# ------------------------------------------------------------------------------------------------------------- joining


def test_the_same_call_joins_the_one_that_provisions_and_rents_nothing_twice():
    async def story(world: World) -> None:
        await world.sleep(5)
        demand = demand_of(await a_host(world))
        first = asyncio.create_task(sent(world, demand))
        await world.sleep(2)
        assert (await status(world)).pool.state is PoolState.PROVISIONING
        assert [(await each).pool.state for each in (first, asyncio.create_task(sent(world, demand)))] == [
            PoolState.ACTIVE
        ] * 2
        assert (await sent(world, demand)).pool.state is PoolState.ACTIVE
        assert rented(world) == (2, 1)

    in_world(story, **BOOTS)


def test_two_calls_at_the_same_moment_make_one_pool():
    async def story(world: World) -> None:
        await world.sleep(5)
        demand = demand_of(await a_host(world))
        one, two = await asyncio.gather(sent(world, demand), sent(world, demand))
        assert one.pool.id == two.pool.id
        assert (one.pool.state, two.pool.state) == (PoolState.ACTIVE, PoolState.ACTIVE)
        assert rented(world) == (2, 1)

    in_world(story, **BOOTS)


def test_another_spelling_of_the_gpu_is_the_same_call():
    async def story(world: World) -> None:
        await world.sleep(5)
        host = await a_host(world)
        view = await sent(world, demand_of(host))
        assert view.primary is not None
        model = view.primary.offered.gpu_model
        await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        await sent(world, demand_of(host, gpu_model=model))
        again = await sent(world, demand_of(host, gpu_model=model.lower().replace(" ", "_")))
        assert again.pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("image", {"image": "ubuntu:24.04"}),
    ("volume_size", {"volume_gb": 50}),
    ("disk_size", {"disk_gb": 60}),
    ("onstart", {"onstart": "sleep 1"}),
]


@pytest.mark.parametrize("state", [PoolState.PROVISIONING, PoolState.ACTIVE], ids=str)
def test_other_parameters_are_refused_while_it_provisions_and_while_it_is_active(state: PoolState):
    """The refusal names the fields of the call, and nothing changes."""

    async def story(world: World) -> None:
        await world.sleep(5)
        first, second = (await hosts(world))[:2]
        running = asyncio.create_task(sent(world, demand_of(first)))
        await world.sleep(2 if state is PoolState.PROVISIONING else 120)
        before = (await status(world)).pool
        assert before.state is state
        for field, changes in [*OTHERS, ("host_machine_id", {})]:
            with pytest.raises(Refusal) as refused:
                await sent(world, demand_of(second if field == "host_machine_id" else first, **changes))
            assert refused.value.reason is Reason.POOL_EXISTS, field
            assert field in refused.value.message
            assert state in refused.value.message
        assert (await status(world)).pool.spec == before.spec
        assert (await running).pool.state is PoolState.ACTIVE
        assert rented(world) == (2, 1)

    in_world(story, **BOOTS)


def test_during_a_failover_and_a_search_the_refusal_is_the_state():
    async def story(world: World) -> None:
        await world.sleep(5)
        host, other = (await hosts(world))[:2]
        view = await sent(world, demand_of(host))
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        await world.sleep(10)
        assert (await status(world)).pool.state is PoolState.FAILOVER
        with pytest.raises(FailedPrecondition, match="is failover") as failing:
            await sent(world, demand_of(other))
        await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        world.arm("search", "refuse_connection", times=0)
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        world.control("DELETE", "faults")
        with pytest.raises(FailedPrecondition, match="is searching") as searching:
            await sent(world, demand_of(other))
        assert {failing.value.reason, searching.value.reason} == {Reason.POOL_STATE}

    in_world(story, **BOOTS)


def test_a_provision_takes_back_a_disable_that_has_not_happened_yet():
    """Otherwise the caller would get a pool that ends at once."""

    async def story(world: World) -> None:
        await world.sleep(5)
        demand = demand_of(await a_host(world))
        view = await sent(world, demand)
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        await world.sleep(10)
        assert (await status(world)).pool.state is PoolState.FAILOVER
        await world.engine.pools.disable(replace(caller(world), deadline=world.clock.monotonic() + 1), 123)
        await sent(world, demand)
        await world.sleep(400)
        after = (await status(world)).pool
        assert (after.state, after.failover_count) == (PoolState.ACTIVE, 1)

    in_world(story, **BOOTS)


# ------------------------------------------------------------------------------------------------------ taking others


async def off(world: World, _view: PoolView) -> None:
    await world.engine.pools.disable(caller(world), 123)


async def without_gpus(world: World, view: PoolView) -> None:
    """Strangers rent all other GPUs of the host."""
    machine = world.sandbox.market.machines[view.pool.host_number or 0]
    world.sandbox.market.hold(machine, ~machine.held & ((1 << machine.gpus) - 1))
    await world.sleep(100)


async def suspended(world: World, view: PoolView) -> None:
    """The host goes offline during a failover, so nothing proves the primary stopped: the incident stays open."""
    assert view.primary is not None
    world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
    while (await status(world)).incident is None:
        await world.sleep(0.5)
    market = world.sandbox.market
    market.set_online(market.machines[view.pool.host_number or 0], online=False)
    await world.sleep(150)
    assert (await status(world)).incident is not None


@pytest.mark.parametrize(
    ("makes", "state"),
    [(off, PoolState.DISABLED), (without_gpus, PoolState.DEGRADED), (suspended, PoolState.DEGRADED)],
)
def test_another_host_is_taken_and_what_stood_is_given_back_but_the_volume(makes: Any, state: PoolState):
    async def story(world: World) -> None:
        await world.sleep(5)
        first, second = (await hosts(world))[:2]
        before = await sent(world, demand_of(first))
        await makes(world, before)
        assert (await status(world)).pool.state is state
        moved = await sent(world, demand_of(second, volume_gb=60))
        assert (moved.pool.state, moved.pool.host_number, moved.pool.spec.volume_gb) == (PoolState.ACTIVE, second, 60)
        market = world.sandbox.market
        market.set_online(market.machines[first], online=True)
        await world.sleep(200)
        after = await status(world)
        assert after.primary is not None
        assert after.standby is not None
        assert after.volume is not None
        assert set(world.alive()) == {after.primary.instance_id, after.standby.instance_id}
        (kept,) = after.retained
        assert kept.id == before.pool.volume
        assert kept.observed.price > 0
        assert [row["deleted_at"] for row in world.market["volumes"]] == [None, None]
        assert after.pool.data_state == "empty"

        world.control("POST", f"instances/{after.primary.instance_id}/kill", {"how": "container"})
        await world.sleep(400)
        later = await status(world)
        assert (later.pool.state, later.pool.failover_count) == (PoolState.ACTIVE, 1), later.pool

    in_world(story, **BOOTS)


def test_a_failed_primary_is_given_back_with_its_host():
    async def story(world: World) -> None:
        await world.sleep(5)
        first, second = (await hosts(world))[:2]
        before = await sent(world, demand_of(first))
        assert before.primary is not None
        world.control("POST", f"instances/{before.primary.instance_id}/kill", {"how": "container"})
        await world.sleep(400)
        assert (await status(world)).pool.failed == before.primary.id
        await world.engine.pools.disable(caller(world), 123)
        assert (await status(world)).pool.failed is None
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        await world.sleep(200)
        view = await status(world)
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        while (await status(world)).pool.failed is None:
            await world.sleep(1)
        await without_gpus(world, await status(world))
        assert (await status(world)).pool.state is PoolState.DEGRADED
        await sent(world, demand_of(second))
        await world.sleep(120)
        after = await status(world)
        assert after.pool.failed is None
        assert len(world.alive()) == 2

    in_world(story, **BOOTS)


def test_other_parameters_on_the_same_host_keep_primary_and_volume():
    async def story(world: World) -> None:
        await world.sleep(5)
        host = await a_host(world)
        before = await sent(world, demand_of(host))
        await world.engine.pools.disable(caller(world), 123)
        after = await sent(world, demand_of(host, image="ubuntu:24.04"))
        assert after.pool.state is PoolState.ACTIVE
        assert (after.pool.primary, after.pool.volume) == (before.pool.primary, before.pool.volume)
        assert after.pool.spec.image == "ubuntu:24.04"
        assert after.retained == ()

    in_world(story, **BOOTS)


def test_enable_with_another_host_is_refused_while_the_pool_works():
    async def story(world: World) -> None:
        await world.sleep(5)
        first, second = (await hosts(world))[:2]
        await sent(world, demand_of(first))
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123, host_machine_id=first))
        for demand in (
            EnableDemand(machine_id=123, host_machine_id=second),
            EnableDemand(machine_id=123, secrets=PoolSecrets(secret_env=(("A", "b"),))),
        ):
            with pytest.raises(Refusal) as refused:
                await world.engine.pools.enable(caller(world), demand)
            assert refused.value.reason is Reason.POOL_EXISTS

    in_world(story, **BOOTS)


# ------------------------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_rents_and_stores_nothing_and_has_the_price_of_each_part():
    async def story(world: World) -> None:
        await world.sleep(5)
        host = await a_host(world)
        view, plan = await world.engine.pools.provision(caller(world), demand_of(host, dry_run=True))
        assert (view.pool.state, view.primary, view.standby, view.volume) == (PoolState.DISABLED, None, None, None)
        assert await world.engine.pools.status(caller(world), 123) is None
        assert await world.engine.pools.listed(caller(world), 0, 10) == ([], 0)
        assert await world.reservations() == 0
        assert rented(world) == (0, 0)
        assert (world.calls("create"), world.calls("volume_create")) == (0, 0)

        made = await sent(world, demand_of(host))
        await world.sleep(60)
        for lease, price in (
            (made.primary, plan.primary_price),
            (made.volume, plan.volume_price),
        ):
            assert lease is not None
            assert price is not None
            assert abs(lease.observed.price - price) <= 0.02 * price + 10
        assert made.standby is not None
        assert plan.standby_price is not None
        assert 0 < plan.standby_price < plan.primary_price
        assert abs(made.standby.observed.disk_price - plan.standby_price) <= 0.02 * plan.standby_price + 10
        assert plan.price == plan.primary_price + plan.standby_price + plan.volume_price

    in_world(story, **BOOTS)


def test_a_dry_run_of_a_pool_that_works_changes_nothing():
    async def story(world: World) -> None:
        await world.sleep(5)
        first, second = (await hosts(world))[:2]
        await sent(world, demand_of(first))
        before = (await status(world)).pool
        await sent(world, demand_of(second, dry_run=True, volume_gb=50))
        after = (await status(world)).pool
        assert (after.spec, after.host, after.state) == (before.spec, before.host, before.state)
        assert rented(world) == (2, 1)

    in_world(story, **BOOTS)


def test_a_dry_run_on_a_host_without_room_is_refused_as_the_call_would_be():
    async def story(world: World) -> None:
        await world.sleep(5)
        host = await a_host(world)
        machine = world.sandbox.market.machines[host]
        world.sandbox.market.hold(machine, (1 << machine.gpus) - 1)
        await world.sleep(60)
        for dry_run in (True, False):
            with pytest.raises(FailedPrecondition) as refused:
                await sent(world, demand_of(host, dry_run=dry_run))
            assert refused.value.reason is Reason.NOT_ENOUGH_GPUS
        assert rented(world) == (0, 0)

    in_world(story, **BOOTS)


def test_a_recreate_pool_has_no_standby_to_pay_for():
    async def story(world: World) -> None:
        await world.sleep(5)
        _, plan = await world.engine.pools.provision(
            caller(world), demand_of(await a_host(world), dry_run=True, mode="recreate")
        )
        assert (plan.mode, plan.standby_price) == ("recreate", 0)

    in_world(story, **BOOTS)


def test_provision_without_waiting_answers_at_once():
    async def story(world: World) -> None:
        await world.sleep(5)
        began = world.clock.monotonic()
        view = await sent(world, demand_of(await a_host(world), wait=False))
        assert view.pool.state is PoolState.PROVISIONING
        assert world.clock.monotonic() - began < 3
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)
