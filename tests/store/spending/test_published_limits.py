"""The published settings GUARDRAILS_... are limits of the database as long as the server is started with them."""

from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.reservations import ReservationView
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.store.spending.test_admission import DOLLAR, HOUR, cheapest, tried
from tests.store.spending.test_limit_calls import ADMIN, calls_of, set_to
from tests.world import World, in_world

P2 = Caller(project="p2")


async def restarted(world: World, **settings: Any) -> None:
    await world.kill()
    world.settings = world.settings.model_copy(update=settings)
    await world.start()


async def shown(world: World) -> dict[str, tuple[str, float]]:
    """The windows with a limit, as a user of any project sees them."""
    info = await calls_of(world).GetSpendingInfo(pb.GetSpendingInfoRequest(), P2)
    assert info.guard_rails_enabled is any(each.limit for each in info.windows)
    return {each.window: (each.scope, each.limit) for each in info.windows if each.limit}


async def listed(world: World) -> dict[str, str]:
    """The setting of each limit, by window."""
    answer = await calls_of(world).ListSpendingLimits(pb.ListSpendingLimitsRequest(), ADMIN)
    return {each.window: each.setting for each in answer.limits}


def test_a_setting_limits_all_projects_together_and_is_shown_under_its_own_name() -> None:
    async def story(world: World) -> None:
        price = await cheapest(world)
        usd = round(1.5 * price) / DOLLAR
        await restarted(world, guardrails_max_1440min_rate=usd, limit_policy="no_new")
        assert await shown(world) == {"1440min": ("global", usd)}
        assert await listed(world) == {"1440min": "GUARDRAILS_MAX_1440MIN_RATE"}
        assert isinstance(await tried(world, lease=HOUR), ReservationView)
        refused = await tried(world, project="p2", lease=HOUR)
        assert isinstance(refused, BudgetExceeded)
        assert "GUARDRAILS_MAX_1440MIN_RATE" in refused.message
        assert refused.over.limit.policy == "no_new"

    in_world(story)


def test_a_call_neither_removes_nor_replaces_the_limit_of_a_setting() -> None:
    async def story(world: World) -> None:
        await restarted(world, guardrails_max_60min_rate=2.0)
        with pytest.raises(NotFound, match="GUARDRAILS_MAX_60MIN_RATE"):
            await set_to(world, window="60min", limit=0)
        assert await shown(world) == {"60min": ("global", 2.0)}
        await set_to(world, window="1h", limit=9)
        assert await shown(world) == {"60min": ("global", 2.0), "1h": ("global", 9.0)}
        assert await listed(world) == {"60min": "GUARDRAILS_MAX_60MIN_RATE", "1h": ""}

    in_world(story)


def test_a_start_without_a_setting_or_with_guardrails_off_ends_its_limit_and_leaves_those_of_calls() -> None:
    async def story(world: World) -> None:
        tiny = 0.000001
        await restarted(world, guardrails_max_60min_rate=tiny, guardrails_max_48h_rate=7.0)
        await set_to(world, window="24h", limit=100)
        assert isinstance(await tried(world, lease=HOUR), BudgetExceeded)
        await restarted(world, guardrails_enabled=False)
        assert await shown(world) == {"24h": ("global", 100.0)}
        assert isinstance(await tried(world, lease=HOUR), ReservationView)
        await restarted(world, guardrails_enabled=True)
        assert (await shown(world)).keys() == {"60min", "24h", "48h"}
        assert isinstance(await tried(world, lease=HOUR), BudgetExceeded)
        await restarted(world, guardrails_max_60min_rate=0.0, guardrails_max_48h_rate=8.0)
        assert await shown(world) == {"24h": ("global", 100.0), "48h": ("global", 8.0)}

    in_world(story)
