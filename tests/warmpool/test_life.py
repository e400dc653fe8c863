"""The life of a pool over the simulated market: provision, fail over, test, disable, clean up."""

from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.pool_calls import EnableDemand, HostQuery, ProvisionDemand
from gpuproxy.model.pools import Pool, PoolSpec, PoolState, PoolView
from gpuproxy.ports import Tx
from gpuproxy.store import pools
from tests.simulation.pools_audit import PoolAudit
from tests.world import VAST, World, in_world

PRICE = 5.0


def caller(world: World, seconds: float = 600.0) -> Caller:
    return Caller(project="p1", key_id="k1", deadline=world.clock.monotonic() + seconds)


async def a_host(world: World) -> int:
    """The marketplace's number of the cheapest host that can carry a pool."""
    found = await world.engine.pools.hosts(
        caller(world), HostQuery(max_price=PRICE, provider=VAST, verified_only=False)
    )
    return next(each.machine_id for each in found if each.fits)


async def a_large_host(world: World) -> int:
    """The number of the host with the most GPUs: a third machine of a pool fits beside its two."""
    found = await world.engine.pools.hosts(
        caller(world), HostQuery(max_price=PRICE, provider=VAST, verified_only=False)
    )
    machines = world.sandbox.market.machines
    return max((each.machine_id for each in found if each.fits), key=lambda number: (machines[number].gpus, number))


async def provisioned(world: World, machine_id: int = 123, host: int | None = None, **spec: Any) -> PoolView:
    demand = ProvisionDemand(
        machine_id=machine_id,
        host_machine_id=await a_host(world) if host is None else host,
        provider=VAST,
        spec=PoolSpec(max_price=PRICE, **spec),
    )
    view, _ = await world.engine.pools.provision(caller(world), demand)
    return view


async def status(world: World, machine_id: int = 123) -> PoolView:
    found = await world.engine.pools.status(caller(world), machine_id)
    assert found is not None
    return found


def test_a_provisioned_pool_has_a_running_primary_and_a_stopped_standby_on_one_volume():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        assert view.pool.state is PoolState.ACTIVE, view
        assert view.primary is not None
        assert view.standby is not None
        assert view.volume is not None
        rows = {row["id"]: row for row in world.market["instances"]}
        assert rows[view.primary.instance_id]["status"] == "running"
        assert rows[view.standby.instance_id]["status"] == "stopped"

    in_world(story)


@pytest.mark.parametrize("seconds", [9.3, 31.7, 201.3])
@pytest.mark.parametrize("starts", [1, 2, 20])
@pytest.mark.sampled(4)
def test_a_start_that_is_carried_out_late_makes_no_second_writer(starts: int, seconds: float):
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world, host=await a_large_host(world))
        assert view.primary is not None
        market, audit = world.sandbox.market, PoolAudit(world)
        world.arm("start", "late_effect", times=starts, seconds=seconds)
        market.container_dies(market.instances[int(view.primary.instance_id or 0)], "container exited with code 137")
        await world.sleep(900)
        after = await status(world)
        assert after.pool.state in (PoolState.ACTIVE, PoolState.DEGRADED)
        assert after.pool.failover_count == 1
        audit.safety()

    in_world(story, boot_time=(0.2, 0.3))


def test_without_a_pool_the_database_is_seldom_read_and_a_new_pool_is_taken_up_at_once(monkeypatch: pytest.MonkeyPatch):
    looks: list[float] = []
    read = pools.at_work

    async def story(world: World) -> None:
        def counted(tx: Tx) -> tuple[Pool, ...]:
            looks.append(world.clock.monotonic())
            return read(tx)

        monkeypatch.setattr(pools, "at_work", counted)
        await world.sleep(3600)
        assert 0 < len(looks) <= 62
        looks.clear()
        asked = world.clock.monotonic()
        view = await provisioned(world)
        assert view.pool.state is PoolState.ACTIVE
        assert looks[0] - asked < 1
        looks.clear()
        await world.sleep(60)
        assert len(looks) > 20

    in_world(story)


def instance(world: World, view: PoolView, role: str) -> dict[str, Any]:
    lease = getattr(view, role)
    return next(row for row in world.market["instances"] if row["id"] == lease.instance_id)


def writers(world: World) -> int:
    return sum(row["writer"] for row in world.market["instances"])


def test_the_standby_takes_over_when_the_primarys_container_dies():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        assert before.primary is not None
        assert before.standby is not None
        began = world.clock.monotonic()
        world.control("POST", f"instances/{before.primary.instance_id}/kill", {"how": "container"})
        while (await status(world)).pool.failover_count == 0:
            assert world.clock.monotonic() - began < 300, (await status(world)).pool
            await world.sleep(0.5)
            assert writers(world) <= 1
        after = await status(world)
        assert after.primary is not None
        assert after.primary.id == before.standby.id
        await world.sleep(400)
        later = await status(world)
        assert later.pool.state is PoolState.ACTIVE, later.pool
        assert later.standby is not None
        assert later.standby.id not in (before.primary.id, before.standby.id)
        assert later.pool.failed == before.primary.id

    in_world(story)


def test_a_tested_failover_swaps_the_roles_and_destroys_nothing():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        result = await world.engine.pools.test(caller(world), 123, allow_destroy=False)
        after = await status(world)
        assert after.pool.state is PoolState.ACTIVE
        assert (after.pool.primary, after.pool.standby) == (before.pool.standby, before.pool.primary)
        assert result.new_primary.id == before.pool.standby
        assert len(world.market["instances"]) == 2

    in_world(story)


def test_cleanup_leaves_nothing_at_the_market():
    async def story(world: World) -> None:
        await world.sleep(5)
        await provisioned(world)
        result = await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        assert result.pending_ids == ()
        assert result.view.pool.state is PoolState.DISABLED
        assert world.alive() == {}
        assert [row for row in world.market["volumes"] if row["deleted_at"] is None] == []

    in_world(story)


def test_a_disabled_pool_keeps_primary_and_volume_and_can_be_enabled_again():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        await world.engine.pools.disable(caller(world), 123)
        await world.sleep(60)
        off = await status(world)
        assert off.pool.state is PoolState.DISABLED
        assert set(world.alive()) == {before.primary.instance_id}

        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        await world.sleep(120)
        on = await status(world)
        assert on.pool.state is PoolState.ACTIVE, on.pool
        assert on.primary.id == before.primary.id

    in_world(story)
