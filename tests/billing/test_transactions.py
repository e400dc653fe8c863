"""GetTransactions below the edge: completed transactions add up to the money spent, and the market agrees."""

from datetime import timedelta

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.transactions import Transaction
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")


async def everything(world: World, caller: Caller = P1) -> list[Transaction]:
    found, total = await world.engine.spending.transactions(caller, 1000, 0)
    assert len(found) == total
    return found


def test_the_completed_ones_add_up_to_what_the_reservation_has_cost() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(3 * 3600)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(200)
        over = await world.view(made.reservation.id)
        told = await everything(world)
        assert not any(each.pending for each in told)
        assert sum(each.amount for each in told) == sum(over.costs) > 0
        billed = world.market["bill_micro_usd"]
        assert abs(billed - sum(over.costs)) <= max(1000, billed // 100)
        await world.sleep(3600)
        assert await everything(world) == told

    in_world(story, machines=10)


def test_each_machine_that_runs_shows_one_pending() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(3)
        await world.sleep(7300)
        told = await everything(world)
        now = await world.view(made.reservation.id)
        assert sum(each.pending for each in told) == len(now.kept) == 3
        assert sum(each.amount for each in told) == sum(now.costs)
        assert all(each.ended_at - each.started_at <= timedelta(hours=1) for each in told)
        assert any(each.meter.storage and each.gpu_hours == 0 for each in told)

    in_world(story, machines=10)


def test_what_was_completed_never_changes_over_a_restart() -> None:
    async def story(world: World) -> None:
        await world.reserve(2)
        await world.sleep(7300)
        before = [each for each in await everything(world) if not each.pending]
        assert len(before) >= 2
        await world.restart()
        await world.sleep(4000)
        after = await everything(world)
        said = {each.id: each.amount for each in after}
        assert all(said[each.id] == each.amount for each in before)

    in_world(story, machines=10)


def test_another_projects_money_is_not_shown() -> None:
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(600)
        assert await everything(world, Caller(project="p2")) == []
        assert await everything(world, Caller(project="p2", role="admin")) == await everything(world)

    in_world(story, machines=10)


def test_a_page_is_a_part_of_the_list() -> None:
    async def story(world: World) -> None:
        await world.reserve(2)
        await world.sleep(5 * 3600)
        whole = await everything(world)
        page, total = await world.engine.spending.transactions(P1, 4, 3)
        assert (page, total) == (whole[3:7], len(whole))

    in_world(story, machines=10)
