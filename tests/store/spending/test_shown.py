"""Quotas, and what clients read of limits."""

import pytest

from gpuproxy.billing.limits import LimitWish
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.quotas import Quota
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationView
from gpuproxy.runtime.regions import Regions
from gpuproxy.store import spend_limits
from tests.store.spending.test_admission import HOUR, P1, cheapest, release, tried
from tests.world import World, in_world

# -- quotas


@pytest.mark.parametrize(
    ("quota", "name"),
    [(Quota(project="p1", gpus=2), "gpus"), (Quota(project="", gpus=2), "gpus"),
     (Quota(project="p1", rate=Micro(1)), "price_per_hour")],
)  # fmt: skip
def test_a_quota_refuses_what_exceeds_it_and_names_itself(quota: Quota, name: str):
    async def story(world: World) -> None:
        await world.db.write(lambda tx: spend_limits.use_settings(tx, (), (quota,)))
        refused = await tried(world, 3)
        assert isinstance(refused, FailedPrecondition)
        assert (refused.reason, refused.metadata["quota"]) == (Reason.QUOTA_EXCEEDED, name)
        assert world.created() == 0
        if quota.gpus:
            assert isinstance(await tried(world, 2), ReservationView)
            assert isinstance(await tried(world, 1), FailedPrecondition)

    in_world(story)


def test_a_quota_of_another_project_refuses_nothing():
    async def story(world: World) -> None:
        await world.db.write(lambda tx: spend_limits.use_settings(tx, (), (Quota(project="p2", gpus=0),)))
        assert isinstance(await tried(world, 3), ReservationView)

    in_world(story)


# -- what clients read


def test_what_is_shown_agrees_with_what_a_reservation_gets():
    async def story(world: World) -> None:
        calls, admin = world.engine.money.limits, Caller(project="ops", role="admin")
        price = await cheapest(world)
        await calls.set(LimitWish(window="24h", amount=Micro(3 * price), project="p1", policy="release_newest"))
        for _ in range(12):
            windows, _spent = await calls.windows(P1)
            (shown,) = [each.usage for each in windows if each.usage.limit.amount]
            next_price = await cheapest(world)
            would = not await calls.check(P1, Micro(next_price))
            assert would is (shown.left >= next_price)
            assert isinstance(await tried(world, lease=HOUR), ReservationView) is would
            if not would:
                break
        else:
            pytest.fail("the limit was never reached")
        assert {each.usage.limit.window.name for each in windows} == {"1h", "24h", "30d"}
        assert [each.id for each in await calls.listed(P1)] == [each.id for each in await calls.listed(admin)]
        assert await calls.listed(Caller(project="p2")) == []
        await calls.set(LimitWish(window="24h", amount=Micro(0), project="p1"))
        assert await calls.listed(admin) == []

    in_world(story)


def test_the_next_release_is_when_the_oldest_spending_leaves_the_window():
    async def story(world: World) -> None:
        began = world.clock.now()
        made = await world.reserve(1, lease=HOUR)
        await world.sleep(1800)
        await release(world, made)
        windows, spent = await world.engine.money.limits.windows(P1)
        of_hour = next(each for each in windows if each.usage.limit.window.name == "1h")
        assert of_hour.next_release_at is not None
        assert abs((of_hour.next_release_at - began).total_seconds() - HOUR) < 60
        assert spent == of_hour.usage.spent > 0
        await world.sleep(2 * HOUR)
        windows, spent_later = await world.engine.money.limits.windows(P1)
        of_hour = next(each for each in windows if each.usage.limit.window.name == "1h")
        assert (of_hour.usage.spent, of_hour.next_release_at) == (0, None)
        assert spent_later == spent, "it is still within 24 hours"

    in_world(story)


# -- accounts of projects


def test_an_account_that_is_assigned_to_a_project_rents_for_no_other():
    async def story(world: World) -> None:
        vast = ProviderName("vast.ai")
        await world.kill()
        world.regions = Regions(projects={(vast, "vast-1"): ("p1",)})
        await world.start()
        for _ in range(3):
            await world.reserve(1, project="p2")
        assert {lease.account for lease in await world.leases()} == {"vast-2"}
        await world.reserve(4, project="p1")
        assert "vast-1" in {lease.account for lease in await world.leases()}

    in_world(story, accounts=2)


def test_a_project_without_any_account_rents_nothing():
    async def story(world: World) -> None:
        await world.kill()
        world.regions = Regions(projects={(ProviderName("vast.ai"), "vast-1"): ("p1",)})
        await world.start()
        assert isinstance(await tried(world, project="p2"), FailedPrecondition)
        assert world.created() == 0

    in_world(story)
