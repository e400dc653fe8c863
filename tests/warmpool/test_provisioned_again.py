"""A pool that is provisioned or enabled again on its host: what stays, and what another specification means for it."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.errors import InvalidArgument
from gpuproxy.model.pool_calls import EnableDemand
from gpuproxy.model.pools import PoolSpec, PoolState, PoolView
from gpuproxy.warmpool.explaining import next_action
from tests.warmpool.scenes import S, lease, scene
from tests.warmpool.test_life import a_host, caller, status
from tests.warmpool.test_provisioning import BOOTS, demand_of, sent
from tests.world import World, in_world

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
