"""A volume that the marketplace deletes ends in the books once several looks agree, and its pool says so."""

from gpuproxy.model.leases import LeaseState
from gpuproxy.model.pools import Degraded, PoolState
from gpuproxy.sandbox.market.volumes import Volume
from tests.warmpool.test_found import kill, two_hosts
from tests.warmpool.test_life import provisioned, status
from tests.world import World, in_world


def at_market(world: World, volume_id: str | None) -> Volume:
    return world.sandbox.market.volumes.all[int(str(volume_id).rpartition(".")[2])]


def lose(world: World, volume_id: str | None) -> None:
    """The marketplace deletes the volume, whatever mounts it."""
    volume = at_market(world, volume_id)
    volume.deleted_at = world.sandbox.market.now


def test_a_volume_that_is_lost_is_not_billed_any_more_and_the_pool_says_why():
    async def story(world: World) -> None:
        await world.sleep(5)
        one, two = await two_hosts(world)
        assert one.volume is not None
        lose(world, one.volume.instance_id)
        await world.sleep(800)
        told = await status(world, 1)
        assert (told.pool.state, told.pool.degraded) == (PoolState.DEGRADED, Degraded.VOLUME_LOST)
        assert told.volume is not None
        assert told.volume.state is LeaseState.LOST
        assert "data is lost" in told.pool.error
        assert (await status(world, 2)).pool.state is PoolState.ACTIVE  # its volume is another one
        assert two.volume is not None
        metered = await world.db.read(lambda tx: tx.fetch("SELECT lease_id FROM meters WHERE closed_at IS NULL"))
        assert told.volume.id not in {row["lease_id"] for row in metered}

    in_world(story, boot_time=(3.0, 4.0))


def test_one_look_that_does_not_show_a_volume_is_no_verdict():
    async def story(world: World) -> None:
        await world.sleep(5)
        await two_hosts(world)
        world.arm("volume_list", "empty_list", times=2)
        await world.sleep(800)
        assert [(await status(world, number)).pool.state for number in (1, 2)] == [PoolState.ACTIVE] * 2

    in_world(story, boot_time=(3.0, 4.0))


def test_a_running_machine_with_the_only_volume_speaks_against_its_loss():
    """Then either listing may be wrong, and the books keep what costs money."""

    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        assert view.volume is not None
        lose(world, view.volume.instance_id)
        await world.sleep(600)
        told = await status(world)
        assert told.volume is not None
        assert told.volume.state is LeaseState.ACTIVE

    in_world(story, boot_time=(3.0, 4.0))


def test_nothing_takes_over_without_the_volume():
    async def story(world: World) -> None:
        await world.sleep(5)
        one, _ = await two_hosts(world)
        assert one.volume is not None
        lose(world, one.volume.instance_id)
        await world.sleep(800)
        kill(world, one)
        await world.sleep(800)
        told = await status(world, 1)
        assert (told.pool.degraded, told.pool.failover_count) == (Degraded.VOLUME_LOST, 0)

    in_world(story, boot_time=(3.0, 4.0))


def test_a_pool_without_its_volume_is_provisioned_anew_with_an_empty_one():
    async def story(world: World) -> None:
        await world.sleep(5)
        one, _ = await two_hosts(world)
        assert one.volume is not None
        lose(world, one.volume.instance_id)
        await world.sleep(800)
        again = await provisioned(world, machine_id=1)
        assert again.pool.state is PoolState.ACTIVE
        assert again.volume is not None
        assert again.volume.id != one.volume.id
        await world.sleep(800)
        assert one.primary is not None
        assert one.primary.instance_id not in world.alive()

    in_world(story, boot_time=(3.0, 4.0))


def test_a_lost_volume_that_is_back_is_not_deleted():
    async def story(world: World) -> None:
        await world.sleep(5)
        one, _ = await two_hosts(world)
        assert one.volume is not None
        volume = at_market(world, one.volume.instance_id)
        lose(world, one.volume.instance_id)
        await world.sleep(800)
        volume.deleted_at = None
        await world.sleep(1800)
        assert volume.deleted_at is None

    in_world(story, boot_time=(3.0, 4.0))
