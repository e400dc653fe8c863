"""What is no proof that a machine is stopped: its first rows, and reads while another supervisor may still start it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from gpuproxy.model.errors import ClaimLost
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.pools import PoolView
from gpuproxy.ports import Tx
from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.store import claims, pools
from gpuproxy.store.claims import Claim
from gpuproxy.warmpool import free_gpus
from gpuproxy.warmpool.memory import SENT_WITHIN, Memory
from gpuproxy.warmpool.scene import Fence, Scene
from tests import databases
from tests.rental.test_claims import shared
from tests.warmpool.scenes import LIMITS
from tests.warmpool.test_life import a_host, instance, provisioned, status
from tests.world import World, in_world


async def fenced(world: World, lease: Lease, seconds: float, memory: Memory) -> None:
    """Try for so long to prove that a machine is stopped."""
    acting = world.engine.supervisor._acting
    pool = (await status(world)).pool
    scene = Scene(pool=pool, leases={lease.id: lease}, incident=None, now=world.clock.now(), limits=LIMITS)
    until = world.clock.monotonic() + seconds
    while world.clock.monotonic() < until:
        await acting._fence(Fence((lease,)), scene, memory, acting._require(pool, memory))


async def young_primary(world: World) -> Lease:
    """The primary of a pool that is being provisioned, a moment after its create. Nothing else works on the pool."""
    call = asyncio.create_task(provisioned(world))
    while not (found := [each for each in await world.leases() if each.kind == "machine" and each.instance_id]):
        await world.sleep(0.5)
    call.cancel()
    await world.engine.supervisor.drain(0)
    await world.engine.supervisor.close()
    return found[0]


def test_the_first_rows_of_a_machine_do_not_prove_that_it_is_stopped():
    async def story(world: World) -> None:
        await world.sleep(5)
        lease = await young_primary(world)
        assert lease.state is LeaseState.STARTING
        world.arm("stop", "stop_ignored", times=0)
        memory = Memory()
        await fenced(world, lease, 30, memory)
        row = next(row for row in world.market["instances"] if row["id"] == lease.instance_id)
        assert row["status"] == "running"
        assert lease.id not in memory.at_rest

    in_world(story, boot_time=(3.0, 4.0), misreport_share=1.0, misreport_seconds=59.0)


def test_a_machine_that_stays_stopped_is_proven_once_its_rows_can_be_trusted():
    async def story(world: World) -> None:
        await world.sleep(5)
        lease = await young_primary(world)
        memory = Memory()
        await fenced(world, lease, 80, memory)
        assert memory.at_rest[lease.id].proves

    in_world(story, boot_time=(3.0, 4.0))


def start_is_committed(world: World) -> bool:
    row = databases.rows(world.db, "SELECT data FROM pool_incidents ORDER BY number DESC LIMIT 1")[0]
    return row is not None and '"start_sent_at":"' in row[0]


async def paused_before_its_start(world: World) -> PoolView:
    """A failover of a process that stands still once it has committed that a start is about to be sent."""
    view = await provisioned(world)
    life = world.life

    def pause() -> None:
        if start_is_committed(world) and not life.held and world.life is life:
            life.pause()

    world.after_writes.append(pause)
    assert view.primary is not None
    world.control("POST", f"instances/{view.primary.instance_id}/kill", {"how": "container"})
    while not life.held:
        await world.sleep(0.1)
    world.after_writes.remove(pause)
    assert view.standby is not None
    assert instance(world, view, "standby")["status"] == "stopped"
    return view


def test_a_start_that_was_held_by_a_pause_is_not_sent_afterwards():
    """Another process has taken over and uses another machine. The late start would make a second writer."""

    async def story(world: World) -> None:
        await shared(world)
        view = await paused_before_its_start(world)
        first, life = world.engine, world.life
        standby = instance(world, view, "standby")
        machine = world.sandbox.market.machines[int(view.pool.host.rpartition("/")[2])]
        mask = world.sandbox.market.instances[int(standby["id"])].mask
        world.sandbox.market.hold(machine, mask, leave_after=200.0)  # so that the standby can't be started for a while
        await world.sleep(CLAIM_SECONDS + 1)
        await world.start()
        await world.sleep(300)  # the next one of the ladder runs, and the stranger has left
        starts = world.calls("start")
        life.resume()
        await world.sleep(5)
        late = world.calls("start") - starts
        await world.sleep(20)
        assert [row["most_writers"] for row in world.market["volumes"]] == [1]
        assert late == 0
        await first.stop()

    in_world(story, boot_time=(3.0, 4.0))


def test_a_new_supervisor_waits_until_no_start_of_the_old_one_can_be_on_its_way():
    async def story(world: World) -> None:
        await shared(world)
        await a_host(world)
        view = await provisioned(world)
        await world.kill()
        await world.sleep(CLAIM_SECONDS + 1)
        await world.start()
        await world.sleep(5)
        memory = world.engine.supervisor.health_of(view.pool.id)
        assert memory is not None
        assert view.primary is not None
        assert memory.trusted_from is not None
        left = (memory.trusted_from - world.clock.now()).total_seconds()
        assert SENT_WITHIN - 10 < left <= SENT_WITHIN
        memory.stopped_at[view.primary.id] = world.clock.now()
        memory.read(view.primary.id, at_rest=True, sent_at=world.clock.now())
        assert memory.at_rest == {}
        await world.sleep(SENT_WITHIN)
        memory.read(view.primary.id, at_rest=True, sent_at=world.clock.now())
        assert view.primary.id in memory.at_rest
        assert await world.db.read(lambda tx: pools.open_incident(tx, view.pool.id)) is None

    in_world(story, boot_time=(3.0, 4.0))


def test_proofs_are_valid_under_one_claim_only():
    """Another supervisor may have started the machine in between."""
    until = datetime(2030, 1, 1, tzinfo=UTC)
    memory, first = Memory(), Claim("account:vast.ai:vast-1", "a", 1, until)
    assert memory.is_under(first)
    assert memory.is_under(Claim(first.name, "a", 1, until + timedelta(seconds=4)))
    assert not memory.is_under(None)
    assert not memory.is_under(Claim(first.name, "a", 3, until))
    assert not memory.is_under(Claim("account:vast.ai:vast-2", "a", 1, until))


def test_an_act_that_was_decided_under_a_claim_that_was_lost_and_taken_again_is_not_recorded():
    async def story(world: World) -> None:
        await provisioned(world)
        supervisor = world.engine.supervisor
        [pool] = await world.db.read(pools.at_work)
        memory = supervisor.health_of(pool.id)
        assert memory is not None
        require = supervisor._acting._require(pool, memory)
        await world.db.write(require)
        claim = world.engine.watches.at(free_gpus.account_of(pool)).claim
        other = await world.db.write(lambda tx: _taken_by_another(tx, claim.name))
        await world.db.write(lambda tx: claims.drop(tx, other))
        await world.db.write(claim.take)
        with pytest.raises(ClaimLost):
            await world.db.write(require)

    in_world(story)


def _taken_by_another(tx: Tx, name: str) -> Claim:
    claims.void(tx)
    taken = claims.take(tx, name, "another", 10.0)
    assert taken is not None
    return taken
