"""A pool that is provisioned or enabled again on its host: what stays, and what another specification means for it."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet

from gpuproxy.model.errors import FailedPrecondition, InvalidArgument, Refusal
from gpuproxy.model.money import dollars
from gpuproxy.model.pool_calls import EnableDemand
from gpuproxy.model.pools import PoolSecrets, PoolSpec, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.explaining import next_action
from gpuproxy.warmpool.provisioning import begun
from gpuproxy.warmpool.secrets import Sealer
from tests.warmpool.scenes import NOW, S, lease, scene
from tests.warmpool.test_found import two_hosts
from tests.warmpool.test_life import a_host, caller, status
from tests.warmpool.test_provisioning import BOOTS, demand_of, hosts, sent, without_gpus
from tests.warmpool.test_volume_lost import lose
from tests.world import VAST, World, in_world

IN_USE = "the volume is in use by another instance"
URL = "http://localhost:8000/health"


async def disabled(world: World, **spec: Any) -> PoolView:
    """A pool that was active and that is disabled now; its primary runs."""
    await world.sleep(5)
    view = await sent(world, demand_of(await a_host(world), **spec))
    assert view.pool.state is PoolState.ACTIVE
    await world.engine.pools.disable(caller(world), 123)
    return view


def host_of(view: PoolView) -> int:
    return view.pool.host_number or 0


# ---------------------------------------------------------------------------------------------------------- the probe


def test_a_primary_without_the_port_of_a_new_health_url_is_supervised_over_ssh_and_the_status_says_so():
    async def story(world: World) -> None:
        before = await disabled(world)
        view = await sent(world, demand_of(host_of(before), ports=(8000,), health=URL))
        assert view.primary is not None
        assert before.primary is not None
        assert view.primary.id == before.primary.id
        assert "created without port 8000" in (await status(world)).next_action
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
        await world.sleep(400)
        after = await status(world)
        assert (after.pool.failover_count, after.pool.state) == (1, PoolState.ACTIVE), after.pool
        assert after.primary is not None
        assert after.primary.creation.asked_ports == (8000,)
        assert after.next_action == "The primary is checked every 2 s."

    in_world(story, **BOOTS)


def test_a_primary_with_the_port_of_the_health_url_is_asked_there():
    """Its GPU fails: the program behind the URL says so, and SSH still answers."""

    async def story(world: World) -> None:
        await world.sleep(5)
        view = await sent(world, demand_of(await a_host(world), ports=(8000,), health=URL))
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "gpu"})
        await world.sleep(400)
        after = await status(world)
        assert (after.pool.state, after.pool.degraded) == (PoolState.DEGRADED, "unreachable"), after.pool

    in_world(story, **BOOTS)


@pytest.mark.parametrize(
    ("creation", "spec", "said"),
    [
        ({"asked_ports": (22, 8080)}, {"health": URL}, True),
        ({"asked_ports": (22, 8000)}, {"health": URL}, False),
        ({"asked_ports": (), "run_mode": ""}, {"health": URL}, False),  # what an older version asked for is unknown
        ({"asked_ports": ()}, {"health": "ssh"}, False),
        ({"asked_ports": ()}, {}, False),
    ],
)
def test_the_next_action_names_a_health_port_that_the_primary_was_not_created_with(
    creation: dict[str, Any], spec: dict[str, Any], said: bool
):
    made = lease("primary", S.ACTIVE)
    made = replace(made, creation=replace(made.creation, **creation))
    assert ("created without port 8000" in next_action(active_view(made, PoolSpec(max_price=1.0, **spec)), 2)) == said


def active_view(primary: Any, spec: PoolSpec) -> PoolView:
    return PoolView(pool=replace(scene().pool, spec=spec), primary=primary)


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ({"ports": (8000,), "health": URL}, {"ports": (9000,)}),
        ({}, {"health": URL}),
        ({"ports": (9000,)}, {"health": URL}),
    ],
)
def test_enable_refuses_a_health_url_whose_port_is_none_of_the_pools_ports(
    stored: dict[str, Any], given: dict[str, Any]
):
    async def story(world: World) -> None:
        before = await disabled(world, **stored)
        with pytest.raises(InvalidArgument) as refused:
            await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123, given=tuple(given.items())))
        assert [each.field for each in refused.value.violations] == ["health"]
        assert "port 8000" in refused.value.violations[0].description
        after = (await status(world)).pool
        assert (after.state, after.spec) == (PoolState.DISABLED, before.pool.spec)

    in_world(story, **BOOTS)


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ({"ports": (8000,), "health": URL}, {"ports": (8000, 9000)}),
        ({"ports": (8000,)}, {"health": URL}),
        ({"ports": (8000,), "health": URL}, {"ports": (9000,), "health": "tcp"}),
    ],
)
def test_enable_takes_a_health_url_together_with_the_ports_that_are_stored(
    stored: dict[str, Any], given: dict[str, Any]
):
    async def story(world: World) -> None:
        await disabled(world, **stored)
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123, given=tuple(given.items())))
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)


# ---------------------------------------------------------------------------------------------------- the price limit


def price_of(view: PoolView) -> int:
    assert view.primary is not None
    return view.primary.observed.price


async def raised(world: World, view: PoolView, factor: float) -> int:
    """The marketplace raises the price of the primary, which is stopped meanwhile. Returns its new price."""
    assert view.primary is not None
    assert view.primary.instance_id is not None
    await world.engine.machines.stop(caller(world), VAST, view.primary.instance_id)
    instance = world.sandbox.market.instances[int(view.primary.instance_id)]
    instance.gpu_price = round(instance.gpu_price * factor)
    await world.sleep(120)
    return price_of(await status(world))


@pytest.mark.parametrize("how", ["provision", "dry run", "enable"])
def test_a_limit_below_the_price_of_the_primary_that_stays_is_refused_with_both_prices(how: str):
    async def story(world: World) -> None:
        before = await disabled(world)
        price = price_of(before)
        limit = price / 2e6
        with pytest.raises(FailedPrecondition, match="max_price") as refused:
            if how == "enable":
                given = (("max_price", limit),)
                await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123, given=given))
            else:
                await sent(world, demand_of(host_of(before), max_price=limit, dry_run=how == "dry run"))
        assert dollars(price) in refused.value.message
        after = (await status(world)).pool
        assert (after.state, after.spec) == (PoolState.DISABLED, before.pool.spec)

    in_world(story, **BOOTS)


def test_a_lower_limit_that_the_primary_keeps_binds_it_from_then_on():
    async def story(world: World) -> None:
        before = await disabled(world)
        limit = price_of(before) * 1.1 / 1e6
        view = await sent(world, demand_of(host_of(before), max_price=limit))
        assert view.pool.state is PoolState.ACTIVE
        assert view.primary is not None
        assert view.primary.creation.ceiling == round(limit * 1e6)
        await world.engine.pools.disable(caller(world), 123)
        price = await raised(world, view, 1.5)
        assert limit * 1e6 < price < before.primary.creation.ceiling  # type: ignore[union-attr]
        with pytest.raises(Refusal, match="costs more than the limit now"):
            await sent(world, demand_of(host_of(before), max_price=limit))
        assert {row["status"] for row in world.alive().values()} == {"stopped"}

    in_world(story, **BOOTS)


def test_another_limit_binds_the_standby_that_stays_too():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await sent(world, demand_of(await a_host(world)))
        await without_gpus(world, before)
        assert (await status(world)).pool.state is PoolState.DEGRADED
        limit = price_of(before) * 1.1 / 1e6
        view = await sent(world, demand_of(host_of(before), max_price=limit, wait=False))
        assert view.pool.standby == before.pool.standby
        ceilings = {each.creation.ceiling for each in (view.primary, view.standby) if each is not None}
        assert ceilings == {round(limit * 1e6)}

    in_world(story, **BOOTS)


def test_a_higher_limit_lets_a_primary_start_whose_price_has_risen():
    async def story(world: World) -> None:
        before = await disabled(world)
        price = await raised(world, before, 100)
        assert price > before.primary.creation.ceiling  # type: ignore[union-attr]
        view = await sent(world, demand_of(host_of(before), max_price=price * 1.1 / 1e6))
        assert view.pool.state is PoolState.ACTIVE, view.pool
        assert view.primary is not None
        assert before.primary is not None
        assert view.primary.id == before.primary.id
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)


def test_a_primary_whose_price_is_above_the_same_limit_is_not_refused_while_it_runs():
    """Its price has risen, and nobody has lowered the limit. The pool goes on as it did."""

    async def story(world: World) -> None:
        before = await disabled(world)
        assert before.primary is not None
        instance = world.sandbox.market.instances[int(before.primary.instance_id or 0)]
        instance.gpu_price = round(instance.gpu_price * 100)
        await world.sleep(120)
        assert price_of(await status(world)) > before.primary.creation.ceiling
        view = await sent(world, demand_of(host_of(before)))
        assert view.pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)


# ------------------------------------------------------------------------------------------ what counts for later parts


CHANGES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"image": "ubuntu:24.04", "volume_gb": 500}, ("image", "volume_size")),
    ({"env": (("A", "b"),), "onstart": "sleep 1", "disk_gb": 60}, ("disk_size", "env", "onstart")),
    ({}, ()),
    ({"keep_failed": timedelta(0), "max_price": 9.0}, ()),
]


@pytest.mark.parametrize(("changes", "names"), CHANGES)
@pytest.mark.parametrize("dry_run", [True, False])
def test_the_plan_names_what_does_not_change_the_parts_that_stay_and_has_their_sizes_and_prices(
    changes: dict[str, Any], names: tuple[str, ...], dry_run: bool
):
    async def story(world: World) -> None:
        before = await disabled(world)
        demand = demand_of(host_of(before), dry_run=dry_run, **changes)
        _, plan = await world.engine.pools.provision(caller(world), demand)
        assert plan.later == names
        assert before.volume is not None
        assert plan.spec.volume_gb == before.volume.offered.disk_gb == 100
        assert (plan.volume_price, plan.primary_price) == (before.volume.observed.price, price_of(before))

    in_world(story, **BOOTS)


def test_other_secrets_are_for_later_machines():
    async def story(world: World) -> None:
        before = await disabled(world)
        world.engine.pools._sealer = Sealer(Fernet.generate_key())
        for secrets, names in (
            (PoolSecrets(secret_env=(("A", "b"),)), ("secret_env or registry_auth",)),
            (PoolSecrets(), ()),
        ):
            demand = demand_of(host_of(before), dry_run=True, secrets=secrets)
            assert (await world.engine.pools.provision(caller(world), demand))[1].later == names

    in_world(story, **BOOTS)


def test_nothing_is_for_later_on_another_host():
    async def story(world: World) -> None:
        await disabled(world)
        other = (await hosts(world))[-1]
        _, plan = await world.engine.pools.provision(
            caller(world), demand_of(other, image="ubuntu:24.04", volume_gb=50, dry_run=True)
        )
        assert (plan.later, plan.spec.volume_gb) == ((), 50)

    in_world(story, **BOOTS)


def test_enable_names_what_does_not_change_the_parts_that_stay():
    async def story(world: World) -> None:
        await disabled(world)
        given = (("image", "ubuntu:24.04"), ("volume_gb", 500), ("max_price", 4.0))
        enabled = await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123, given=given))
        assert enabled.plan.later == ("image", "volume_size")
        assert enabled.plan.spec.volume_gb == 100
        await world.engine.pools.disable(caller(world), 123)
        assert (await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))).plan.later == ()

    in_world(story, **BOOTS)


# ------------------------------------------------------------------------------------- a call that waits for the pool


@pytest.mark.parametrize("ends", ["cleanup", "disable"])
def test_a_provision_whose_pool_is_ended_while_it_waits_is_an_error(ends: str):
    async def story(world: World) -> None:
        await world.sleep(5)
        waiting = asyncio.create_task(sent(world, demand_of(await a_host(world))))
        await world.sleep(6)
        assert (await status(world)).pool.state is PoolState.PROVISIONING
        if ends == "cleanup":
            await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        else:
            await world.engine.pools.disable(caller(world), 123)
        with pytest.raises(FailedPrecondition, match="while this call waited") as refused:
            await waiting
        assert refused.value.reason is Reason.POOL_STATE

    in_world(story, boot_time=(20.0, 30.0))


def test_a_provision_whose_time_is_over_answers_that_it_goes_on():
    async def story(world: World) -> None:
        await world.sleep(5)
        demand = demand_of(await a_host(world))
        view, _ = await world.engine.pools.provision(caller(world, 5), demand)
        assert view.pool.state is PoolState.PROVISIONING

    in_world(story, boot_time=(20.0, 30.0))


# ------------------------------------------------------------------------------------------------------------- the mode


@pytest.mark.parametrize(
    ("asked", "mode", "why"), [("shared", "shared", ""), ("", "recreate", IN_USE), ("recreate", "recreate", IN_USE)]
)
def test_the_reason_for_a_mode_goes_with_the_mode(asked: Any, mode: str, why: str):
    pool = replace(scene(pool={"mode": "recreate"}).pool, mode_why=IN_USE)
    again = begun(NOW, pool, replace(pool.spec, mode=asked), pool.host, pool.account)
    assert (again.mode, again.mode_why) == (mode, why)


@pytest.mark.parametrize("answers", [True, False])
def test_a_pool_is_enabled_also_while_the_marketplace_tells_no_prices(answers: bool):
    async def story(world: World) -> None:
        before = await disabled(world)
        if not answers:
            world.arm("search", "refuse_connection", times=0)
        enabled = await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        assert enabled.plan.host == before.pool.host
        assert (enabled.plan.standby_price is not None) is answers
        world.control("DELETE", "faults")
        await world.sleep(400)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)


@pytest.mark.parametrize("lost", [True, False])
def test_the_answer_says_what_stays_also_after_the_loss_of_the_volume(lost: bool):
    async def story(world: World) -> None:
        await world.sleep(5)
        view, _ = await two_hosts(world)
        assert view.volume is not None
        if lost:
            lose(world, view.volume.instance_id)
            await world.sleep(800)
            assert (await status(world, 1)).pool.degraded == "volume_lost"
        else:
            await world.engine.pools.disable(caller(world), 1)
        again = replace(demand_of(host_of(view), volume_gb=77), machine_id=1)
        _, plan = await world.engine.pools.provision(caller(world), replace(again, dry_run=True))
        assert plan.later == (() if lost else ("volume_size",))
        assert (plan.spec.volume_gb == 77) is lost
        after = await sent(world, again)
        assert after.volume is not None
        assert (after.volume.id == view.volume.id) is not lost

    in_world(story, **BOOTS)
