"""The mode `recreate`: there is no standby, and a failover destroys the primary and makes a machine with its volume."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from gpuproxy.edge.messages.pools import status_message
from gpuproxy.model.errors import FailedPrecondition, Refusal
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.model.pools import PHASES, Degraded, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Provider
from gpuproxy.store import pools
from gpuproxy.warmpool.free_gpus import FreeGpus
from tests.warmpool.test_life import caller, provisioned, status
from tests.world import World, in_world

BOOTS = {"boot_time": (3.0, 5.0)}


def machine_of(world: World, view: PoolView) -> Any:
    return world.sandbox.market.machines[view.pool.host_number or 0]


def take_all(world: World, view: PoolView) -> None:
    """A stranger rents every free GPU of the host."""
    machine = machine_of(world, view)
    world.sandbox.market.hold(machine, ~machine.held & ((1 << machine.gpus) - 1))


def kill(world: World, view: PoolView) -> None:
    assert view.primary is not None
    world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})


def volumes(world: World) -> list[tuple[Any, Any]]:
    """Of each volume: the most writers it ever had at once, and when it was deleted."""
    return [(row["most_writers"], row["deleted_at"]) for row in world.market["volumes"]]


@pytest.mark.parametrize(
    ("options", "spec"),
    [({"volume_sharing": "refuse"}, {}), ({"volume_sharing": "allow"}, {"mode": "recreate"})],
)
def test_a_pool_works_in_recreate_if_it_must_or_if_it_is_asked_to(options: dict[str, Any], spec: dict[str, Any]):
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world, **spec)
        assert (view.pool.state, view.pool.mode, view.standby) == (PoolState.ACTIVE, "recreate", None)
        assert bool(view.pool.mode_why) is (not spec)
        shown = status_message(view, world.clock.now())
        assert (shown.standby_state, shown.mode) == ("none", "recreate")
        assert shown.HasField("standby_checked_at")
        assert len(world.alive()) == 1

    in_world(story, **BOOTS, **options)


def test_a_failover_has_its_phases_and_its_own_time_in_the_status():
    """Detection and fence are as in the mode shared; the start includes the destroy, the create and the boot."""

    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        await world.sleep(10)
        killed_at = world.clock.monotonic()
        kill(world, before)
        while (await status(world)).pool.failover_count == 0:
            assert world.clock.monotonic() - killed_at < 300, (await status(world)).pool
            await world.sleep(0.5)
        took = world.clock.monotonic() - killed_at
        after = await status(world)
        assert after.primary is not None
        assert before.primary is not None
        assert after.primary.id != before.primary.id
        assert after.pool.volume == before.pool.volume
        assert str(before.primary.instance_id) not in world.alive()
        assert (after.pool.data_state, after.pool.failed) == ("same_volume", None)
        (times,) = after.failovers
        phases = dict(times.phases)
        assert (times.kind, set(phases)) == ("failure", set(PHASES))
        assert phases["fence"] >= 5.0  # two reads, so far apart
        assert phases["start"] > 30.0  # the market gives the volume to nobody for 30 s after its last machine
        assert sum(phases.values()) == pytest.approx(after.pool.outage_s)
        shown = status_message(after, world.clock.now())
        assert shown.failover_p50_seconds == pytest.approx(times.total)
        assert shown.last_recovery_seconds == pytest.approx(times.total)
        assert times.total < shown.outage_seconds <= took + 3
        assert shown.outage_seconds == pytest.approx(phases["detect"] + times.total)
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE
        assert volumes(world) == [(1, None)]
        assert len(world.alive()) == 1

    in_world(story, **BOOTS, volume_sharing="refuse")


def test_a_test_destroys_the_primary_so_it_needs_to_be_allowed():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        with pytest.raises(FailedPrecondition, match="allow_destroy") as refused:
            await world.engine.pools.test(caller(world), 123, allow_destroy=False)
        assert refused.value.reason is Reason.DESTROYS_PRIMARY
        assert (await status(world)).pool.state is PoolState.ACTIVE
        assert world.calls("destroy") == 0
        result = await world.engine.pools.test(caller(world), 123, allow_destroy=True)
        assert before.primary is not None
        assert result.new_primary.id != before.primary.id
        assert [each.kind for each in result.view.failovers] == ["test"]
        assert result.recovery_s == pytest.approx(result.view.failovers[0].total)
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE
        assert volumes(world) == [(1, None)]
        assert len(world.alive()) == 1

    in_world(story, **BOOTS, volume_sharing="refuse")


def test_the_hosts_gpus_are_looked_at_again_before_a_test_stops_anything():
    """A stranger has taken them since the last look: the primary is neither stopped nor destroyed."""

    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        take_all(world, before)
        with pytest.raises(Refusal) as refused:
            await world.engine.pools.test(caller(world), 123, allow_destroy=True)
        assert refused.value.reason is Reason.FAILOVER_FAILED
        assert "no free GPUs" in refused.value.message
        after = await status(world)
        assert (after.pool.state, after.pool.degraded) == (PoolState.DEGRADED, Degraded.NO_FREE_GPU)
        assert (after.pool.primary, after.incident) == (before.pool.primary, None)
        assert (world.calls("stop"), world.calls("destroy")) == (0, 0)
        world.sandbox.market.vacate(machine_of(world, before))
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS, volume_sharing="refuse")


def test_a_test_that_can_not_look_stops_nothing():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        world.arm("search", "refuse_connection", times=0)
        with pytest.raises(Refusal) as refused:
            await world.engine.pools.test(caller(world), 123, allow_destroy=True)
        assert refused.value.reason is Reason.FAILOVER_FAILED
        assert (await status(world)).pool.primary == before.pool.primary
        assert (world.calls("stop"), world.calls("destroy")) == (0, 0)
        world.control("DELETE", "faults")
        await world.sleep(120)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    in_world(story, **BOOTS, volume_sharing="refuse")


class Slow:
    """A provider whose answers to searches are on their way for some seconds."""

    def __init__(self, provider: Provider) -> None:
        self.name, self.account, self.capabilities = provider.name, provider.account, provider.capabilities
        self._provider = provider

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        pages = [page async for page in self._provider.search(wanted)]
        await asyncio.sleep(4)
        for page in pages:
            yield page


async def old_look(world: World, view: PoolView) -> "asyncio.Task[None]":
    """A look for the pool's GPUs whose answer is on its way. It shows them free. Later searches get no answer."""
    account = (view.pool.provider, view.pool.account)
    claim = world.engine.watches.at(account).claim.claim
    assert claim is not None
    slow: Any = Slow(world.engine.accounts.provider(account))
    look = asyncio.create_task(FreeGpus(world.db, world.clock).look(slow, [view.pool], claim))
    await world.sleep(0.5)
    world.arm("search", "refuse_connection", times=0)
    return look


def test_a_look_that_began_before_the_test_does_not_count_as_the_new_one():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        look = await old_look(world, before)
        take_all(world, before)
        with pytest.raises(Refusal) as refused:
            await world.engine.pools.test(caller(world), 123, allow_destroy=True)
        await look
        assert refused.value.reason is Reason.FAILOVER_FAILED
        assert (await status(world)).pool.primary == before.pool.primary
        assert (world.calls("stop"), world.calls("destroy")) == (0, 0)

    in_world(story, **BOOTS, volume_sharing="refuse")


@pytest.mark.parametrize("lost", [False, True])
def test_a_look_without_the_claim_under_which_it_began_is_not_stored(lost: bool):
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        await world.sleep(60)
        began = world.clock.now()
        look = await old_look(world, await status(world))
        if lost:
            await world.db.write(lambda tx: tx.execute("UPDATE claims SET owner = 'another', fence = fence + 1"))
        await look
        pool = await world.db.read(lambda tx: pools.get(tx, before.pool.id))
        assert pool.looked_at is not None
        assert (pool.looked_at == began) is not lost

    in_world(story, **BOOTS, volume_sharing="refuse")


def full(world: World, view: PoolView) -> None:
    take_all(world, view)


def unseen(world: World, _view: PoolView) -> None:
    world.arm("search", "refuse_connection", times=0)


@pytest.mark.parametrize("happens", [full, unseen])
def test_a_failed_primary_is_not_destroyed_while_no_other_gpus_are_seen_free(
    happens: Callable[[World, PoolView], None],
):
    """Nothing could take over, so it is started again: it may work, and its disk is still there."""

    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        happens(world, before)
        kill(world, before)
        await world.sleep(200)
        after = await status(world)
        assert after.pool.primary == before.pool.primary
        assert world.calls("destroy") == 0
        assert after.pool.failover_count == 0
        assert volumes(world) == [(1, None)]

    in_world(story, **BOOTS, volume_sharing="refuse")


def test_a_pool_whose_host_has_no_other_gpus_is_degraded():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        take_all(world, before)
        await world.sleep(100)
        told = (await status(world)).pool
        assert (told.state, told.degraded) == (PoolState.DEGRADED, Degraded.NO_FREE_GPU)
        assert world.alive().keys() == {str(before.primary.instance_id)} if before.primary else False

    in_world(story, **BOOTS, volume_sharing="refuse")
