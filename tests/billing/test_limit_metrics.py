"""Metrics of spending limits: the fullest one of each scope and window, and no name of a project or a key."""

from gpuproxy.app import figures
from gpuproxy.billing.limits import LimitWish
from gpuproxy.model.money import Micro
from tests.app.test_metrics import values
from tests.world import World, in_world


async def measured(world: World) -> dict[str, float]:
    await world.engine.money.horizons.step()
    found = await figures.read(world.db, world.engine.watches, world.clock)
    text = world.engine.metrics.render(found, usages=world.engine.money.horizons.usages)
    assert "secret-project" not in text.decode()
    return {name: value for name, value in values(text).items() if "_limit" in name}


async def limit(world: World, project: str, dollars: float, window: str = "24h") -> None:
    wish = LimitWish(window=window, amount=Micro(int(dollars * 1_000_000)), project=project, policy="warn")
    await world.engine.money.limits.set(wish)


def test_the_fullest_limit_of_a_scope_and_window_is_shown_with_what_is_spent_and_held() -> None:
    async def story(world: World) -> None:
        await limit(world, "p1", 4.0)
        await limit(world, "secret-project", 1.0)
        await limit(world, "p1", 900.0, "30d")
        await world.reserve(1, wait_for="ready", seconds=900)
        seen = await measured(world)
        day = '{scope="project",window="24h"}'
        assert seen[f"gpuproxy_limit_usd{day}"] == 4.0  # of the two, the one that something counts against
        assert seen[f"gpuproxy_limit_held_usd{day}"] + seen[f"gpuproxy_limit_spent_usd{day}"] > 0
        assert seen['gpuproxy_limit_usd{scope="project",window="30d"}'] == 900.0
        assert sum(number for name, number in seen.items() if name.startswith("gpuproxy_limits{")) == 3

    in_world(story)


def test_a_limit_that_is_nearly_reached_or_reached_is_counted_as_such() -> None:
    async def story(world: World) -> None:
        await world.reserve(1, wait_for="ready", seconds=900)
        await limit(world, "p1", 0.001)
        await limit(world, "p2", 1.0)
        seen = await measured(world)
        assert [seen[f'gpuproxy_limits{{state="{state}"}}'] for state in ("ok", "near", "reached")] == [1, 0, 1]

    in_world(story)


def test_the_number_of_series_does_not_grow_with_projects_or_windows() -> None:
    async def story(world: World) -> None:
        for number in range(60):
            await limit(world, f"secret-project-{number}", 5.0, f"{5 + number}m")
        seen = await measured(world)
        assert len(seen) <= 3 * 30 + 3
        assert seen['gpuproxy_limits{state="ok"}'] == 60

    in_world(story)


def test_without_limits_all_counts_are_zero() -> None:
    async def story(world: World) -> None:
        assert set((await measured(world)).values()) == {0.0}

    in_world(story)
