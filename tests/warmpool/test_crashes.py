"""A process that is killed at any point of a failover: the next one finishes it, once.

The points are found by counting, as in `tests/simulation/test_crash_points.py`. Sixteen are run by default, and all
with `--all-seeds`.
"""

import asyncio
from contextlib import suppress

import pytest

from gpuproxy.model.pools import PoolState
from tests.warmpool.test_life import provisioned, status
from tests.world import World, in_world

_POINTS = 90
"""Points of one failover and the seconds around it."""
_STRIDE = 19
"""Has no factor in common with _POINTS, so all seeds are all points, and the first seeds are spread over them."""
_DIE_WITHIN = 40.0
_REST = 400.0


async def live(world: World) -> set[str]:
    """What the books call live: machines and volumes."""
    return {str(each.instance_id).removeprefix("V.") for each in await world.live()}


def there(world: World) -> set[str]:
    """What exists at the market."""
    return {*world.alive(), *(row["id"] for row in world.market["volumes"] if row["deleted_at"] is None)}


@pytest.mark.seeds(16, _POINTS)
@pytest.mark.sampled(3)
def test_a_failover_that_is_killed_at_any_point_is_finished_once(seed: int):
    """`seed` selects the point: the moment before or after a commit or a call."""

    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        assert before.primary is not None
        assert before.volume is not None
        world.control("POST", f"instances/{before.primary.instance_id}/kill", {"how": "container"})
        world.life.die_after(1 + seed * _STRIDE % _POINTS)
        until = world.clock.monotonic() + _DIE_WITHIN
        while not world.life.dead and world.clock.monotonic() < until:
            await world.sleep(0.5)
        with suppress(asyncio.CancelledError):
            await world.restart()
        await world.sleep(_REST)
        after = await status(world)
        assert after.pool.state is PoolState.ACTIVE, after.pool
        assert after.pool.failover_count == 1
        assert [each.kind for each in after.failovers] == ["failure"]
        assert [row["most_writers"] for row in world.market["volumes"]] == [1]
        assert await live(world) == there(world)

    in_world(story, boot_time=(3.0, 5.0), seed=7)


@pytest.mark.parametrize("seconds", [1.0, 6.0, 9.0, 14.0])
def test_a_pool_that_is_being_provisioned_is_taken_up_where_it_was(seconds: float):
    async def story(world: World) -> None:
        await world.sleep(5)
        call = asyncio.create_task(provisioned(world))
        await world.sleep(seconds)
        call.cancel()
        await world.restart()
        await world.sleep(200)
        view = await status(world)
        assert view.pool.state is PoolState.ACTIVE, view.pool
        assert len(world.market["instances"]) == 2
        assert len(world.market["volumes"]) == 1

    in_world(story, boot_time=(5.0, 6.0))
