"""Metrics of the server's health: the checks of /readyz, the findings of doctor, the states of warm pools."""

import re
from datetime import timedelta
from pathlib import Path
from typing import get_args

from gpuproxy.app import figures
from gpuproxy.health.checkup import Kind
from gpuproxy.model.pools import PoolState
from tests.deployed import deployed
from tests.warmpool.test_life import provisioned
from tests.world import World, in_world


async def measured(world: World) -> dict[str, float]:
    """The value of each time series by its name and labels."""
    found = await figures.read(world.db, world.engine.watches, world.clock)
    checks = {"server": "ok", **await world.engine.readiness.checks()}
    return values(world.engine.metrics.render(found, problems=await world.engine.health.counts(), checks=checks))


def values(text: bytes) -> dict[str, float]:
    rows = (line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#"))
    return {series: float(value) for series, _, value in rows}


def test_each_kind_of_problem_is_counted_and_notices_too() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2, wait_for="ready", seconds=900, lease_duration=timedelta(days=7))
        first, second = (str(lease.instance_id) for lease in made.leases)
        before = await measured(world)
        assert [before[f'gpuproxy_problems{{kind="{kind}"}}'] for kind in get_args(Kind)] == [0.0] * len(get_args(Kind))
        world.control("POST", f"instances/{first}/kill", {"how": "container"})
        world.control("POST", f"instances/{second}/contract", {"ends_in_seconds": 86400})
        await world.sleep(200)
        after = await measured(world)
        assert {name for name in after if name.startswith("gpuproxy_problems") and after[name] != before[name]} == {
            'gpuproxy_problems{kind="dead_machine"}',
            'gpuproxy_problems{kind="contract_ends"}',
            'gpuproxy_problems{kind="self_ending"}',  # a sandbox that runs no boot script hears no watchdog
        }
        assert await world.engine.health.summary() == "dead_machine 1"

    in_world(story)


def test_a_check_that_fails_is_not_ready_and_the_others_are() -> None:
    async def story(world: World) -> None:
        await world.sleep(60)
        assert ready(await measured(world)) == {"server": 1, "database": 1, "reconcile": 1, "accounts": 1}
        world.arm("list", "status_500_before", times=0)
        await world.sleep(50)
        assert ready(await measured(world)) == {"server": 1, "database": 1, "reconcile": 1, "accounts": 0}

    in_world(story)


def ready(series: dict[str, float]) -> dict[str, int]:
    found = ((re.fullmatch(r'gpuproxy_ready\{check="(\w+)"\}', name), value) for name, value in series.items())
    return {match.group(1): int(value) for match, value in found if match}


def test_warm_pools_are_counted_by_every_state() -> None:
    async def story(world: World) -> None:
        await world.sleep(5)
        none = await measured(world)
        assert {none[f'gpuproxy_warm_pools{{state="{state}"}}'] for state in PoolState} == {0.0}
        await provisioned(world)
        one = await measured(world)
        assert [state for state in PoolState if one[f'gpuproxy_warm_pools{{state="{state}"}}']] == ["active"]

    in_world(story)


async def test_a_server_reports_the_same_checks_in_its_metrics_as_in_readyz(tmp_path: Path) -> None:
    async with deployed(tmp_path) as server, server.web.get(f"{server.url}/metrics") as answer:
        series = values(await answer.read())
        _, said = await server.http("GET", "/readyz")
    # this server was never told that it serves
    assert ready(series) == {name: int(result == "ok") for name, result in said["checks"].items()}
    assert ready(series)["server"] == 0
    assert ready(series)["database"] == 1
    assert series['gpuproxy_problems{kind="silent"}'] == 0
