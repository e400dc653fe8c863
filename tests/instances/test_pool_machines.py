"""The machines of a warm pool are its supervisor's alone; those of a disabled pool may be stopped and destroyed."""

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.pools import Pool, PoolId, PoolSpec, PoolState, Wanted
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Tx
from gpuproxy.store import pools
from tests.world import VAST, World, in_world

CALLER = Caller(project="p1")


async def pool_machine(world: World, state: PoolState, wanted: Wanted = "disabled", *, primary: bool = True) -> Lease:
    """A machine that is ready, and that belongs to a pool in this state."""
    made = await world.reserve(1, wait_for="ready", seconds=600)
    lease = made.leases[0]

    def write(tx: Tx) -> None:
        tx.execute("UPDATE reservations SET kind = 'pool' WHERE id = ?", (lease.reservation_id,))
        pool = Pool(
            id=PoolId("pool-1"),
            project="p1",
            machine_id=123,
            ledger=lease.reservation_id,
            state=state,
            wanted=wanted,
            created_at=tx.now(),
            spec=PoolSpec(max_price=1.0),
            nonce="n",
            provider=VAST,
            primary=lease.id if primary else None,
        )
        pools.insert(tx, pool)

    await world.db.write(write)
    return lease


async def refused(world: World, lease: Lease, action: str) -> FailedPrecondition:
    call = getattr(world.engine.instances if action == "destroy" else world.engine.machines, action)
    with pytest.raises(FailedPrecondition) as error:
        await call(CALLER, VAST, lease.instance_id)
    return error.value


@pytest.mark.parametrize("action", ["stop", "start", "destroy"])
def test_a_supervised_machine_is_refused(action: str) -> None:
    async def story(world: World) -> None:
        lease = await pool_machine(world, PoolState.ACTIVE, "supervised")
        refusal = await refused(world, lease, action)
        assert refusal.reason is Reason.IN_WARM_POOL
        assert refusal.metadata == {"machine_id": "123", "state": "active"}
        assert "machine_id 123 (active)" in refusal.message
        assert world.calls("stop") == world.calls("destroy") == 0

    in_world(story)


def test_the_primary_of_a_disabled_pool_is_stopped_and_destroyed_and_not_started() -> None:
    async def story(world: World) -> None:
        lease = await pool_machine(world, PoolState.DISABLED)
        contract = str(lease.instance_id)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        refusal = await refused(world, lease, "start")
        assert "EnableWarmPool" in refusal.message
        released = await world.engine.instances.destroy(CALLER, VAST, contract)
        assert released.state is LeaseState.RELEASING

    in_world(story)


@pytest.mark.parametrize("action", ["stop", "destroy"])
def test_another_machine_of_a_disabled_pool_is_refused(action: str) -> None:
    async def story(world: World) -> None:
        lease = await pool_machine(world, PoolState.DISABLED, primary=False)
        assert (await refused(world, lease, action)).reason is Reason.IN_WARM_POOL

    in_world(story)


def test_a_pool_that_is_about_to_be_supervised_again_is_not_at_rest() -> None:
    async def story(world: World) -> None:
        lease = await pool_machine(world, PoolState.DISABLED, "supervised")
        assert (await refused(world, lease, "destroy")).reason is Reason.IN_WARM_POOL

    in_world(story)


def test_the_reservation_of_a_pool_is_neither_released_nor_extended() -> None:
    async def story(world: World) -> None:
        lease = await pool_machine(world, PoolState.DISABLED)
        reservations = world.engine.reservations
        with pytest.raises(FailedPrecondition) as released:
            await reservations.release(CALLER, lease.reservation_id)
        with pytest.raises(FailedPrecondition) as extended:
            await reservations.extend(CALLER, lease.reservation_id, world.clock.now())
        assert {released.value.reason, extended.value.reason} == {Reason.IN_WARM_POOL}
        assert set(world.alive()) == {lease.instance_id}

    in_world(story)
