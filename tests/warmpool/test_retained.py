"""Volumes that remain: kept by a cleanup, listed with their price, and deleted only if somebody asks for it."""

from dataclasses import replace

import pytest

from gpuproxy.edge.messages.pools import status_message
from gpuproxy.model.errors import FailedPrecondition, NotFound
from gpuproxy.model.pools import PoolState, PoolView
from gpuproxy.model.reasons import Reason
from tests.warmpool.test_life import caller, provisioned, status
from tests.world import World, in_world

BOOTS = {"boot_time": (3.0, 4.0)}


async def kept(world: World) -> PoolView:
    """A pool that was cleaned up, all but its volume; the view is that of before."""
    await world.sleep(5)
    view = await provisioned(world)
    ended = await world.engine.pools.cleanup(caller(world), 123, keep_volume=True)
    assert ended.pending_ids == ()
    return view


def there(world: World) -> list[str]:
    """The volumes at the market."""
    return [str(row["id"]) for row in world.market["volumes"] if row["deleted_at"] is None]


def test_a_kept_volume_is_listed_with_the_marketplaces_id_and_its_price():
    async def story(world: World) -> None:
        before = await kept(world)
        assert world.alive() == {}
        after = await status(world)
        assert (after.pool.state, after.volume) == (PoolState.DISABLED, None)
        shown = status_message(after, world.clock.now())
        (row,) = shown.retained_volumes
        assert before.volume is not None
        assert [row.volume_id] == there(world)
        assert (row.host_machine_id, row.size_gb, row.provider) == (before.pool.host_number, 100, "vast.ai")
        assert row.price_per_hour == pytest.approx(before.volume.observed.price / 1e6)
        assert [(each.part, each.contract_id) for each in shown.costs] == [("retained_volume", row.volume_id)]
        assert shown.price_per_hour == pytest.approx(row.price_per_hour)
        assert not shown.HasField("volume_id")

    in_world(story, **BOOTS)


def test_nothing_but_the_call_deletes_a_kept_volume():
    """Neither time, nor a restart, nor a new pool with the same number."""

    async def story(world: World) -> None:
        await kept(world)
        (number,) = there(world)
        await world.sleep(3600)
        await world.restart()
        await world.sleep(60)
        again = await provisioned(world)
        assert again.pool.state is PoolState.ACTIVE
        assert number in there(world)
        assert len(there(world)) == 2
        assert [each.marketplace_id for each in (await status(world)).retained] == [number]
        gone = await world.engine.pools.delete_retained_volume(caller(world), 123, number)
        assert gone.pending_ids == ()
        assert number not in there(world)
        assert (await status(world)).retained == ()
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS)


@pytest.mark.parametrize("spelling", ["{}", "V.{}", " {} "])
def test_a_retained_volume_is_deleted_by_its_id_and_a_repeat_is_no_error(spelling: str):
    async def story(world: World) -> None:
        await kept(world)
        (number,) = there(world)
        for _ in range(2):
            result = await world.engine.pools.delete_retained_volume(caller(world), 123, spelling.format(number))
            assert result.pending_ids == ()
        assert there(world) == []
        assert (await status(world)).retained == ()

    in_world(story, **BOOTS)


def test_a_delete_whose_deadline_passes_names_the_volume_and_goes_on():
    async def story(world: World) -> None:
        await kept(world)
        (number,) = there(world)
        world.arm("volume_delete", "status_500_before", times=2)
        result = await world.engine.pools.delete_retained_volume(caller(world, 1.5), 123, number)
        assert result.pending_ids == (number,)
        await world.sleep(1200)
        assert there(world) == []
        assert (await status(world)).retained == ()

    in_world(story, **BOOTS)


def test_the_volume_in_use_an_unknown_one_and_those_of_others_are_refused():
    async def story(world: World) -> None:
        await world.sleep(5)
        await provisioned(world)
        (number,) = there(world)
        delete = world.engine.pools.delete_retained_volume
        with pytest.raises(FailedPrecondition, match="is in use") as used:
            await delete(caller(world), 123, number)
        assert used.value.reason is Reason.VOLUME_IN_USE
        for who, machine_id, volume in (
            (caller(world), 123, "99"),
            (caller(world), 777, number),
            (replace(caller(world), project="p2"), 123, number),
        ):
            with pytest.raises(NotFound):
                await delete(who, machine_id, volume)
        assert there(world) == [number]

    in_world(story, **BOOTS)


def test_a_cleanup_without_keep_volume_deletes_all_of_them():
    async def story(world: World) -> None:
        await kept(world)
        await provisioned(world)
        assert len(there(world)) == 2
        ended = await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        assert ended.pending_ids == ()
        assert there(world) == []

    in_world(story, **BOOTS)
