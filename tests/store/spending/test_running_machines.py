"""What limits and quotas do to machines that run, when a fact is observed: a price rises, a machine wakes up."""

import pytest

from gpuproxy.model.lease_facts import Shown
from gpuproxy.model.leases import Lease, LeaseState, SshAddress
from gpuproxy.model.limits import Policy
from gpuproxy.model.money import Micro
from gpuproxy.model.quotas import Quota
from gpuproxy.reconcile.steps import Note
from gpuproxy.reconcile.writing import write
from gpuproxy.store import spend_limits
from tests.prepaid import PrepaidWorld, in_prepaid_world
from tests.store.spending.test_admission import DOLLAR, P1, limit, put, usage
from tests.world import VAST, World, in_world


async def quota(world: World, **amounts: int) -> None:
    await world.db.write(lambda tx: spend_limits.use_settings(tx, (), (Quota(project="p1", **amounts),)))


async def costs(world: World, lease: Lease, factor: float) -> LeaseState:
    """Tell a listing with another price of the machine; returns the state of its lease then."""
    fact = Shown(
        at=world.clock.now(), price=Micro(round(lease.observed.price * factor)), disk_price=None, billed="all",
        status_message=None, ssh=SshAddress("", 0), ports=(), contract_ends_at=None, too_soon=False,
    )  # fmt: skip
    await world.db.write(lambda tx: write(tx, Note(lease, fact)))
    return {each.id: each.state for each in await world.leases()}[lease.id]


async def ready(world: World, **wanted: float) -> Lease:
    made = await world.reserve(1, **wanted)
    await world.sleep(60)
    [lease] = [each for each in await world.live() if each.reservation_id == made.reservation.id]
    assert lease.state is LeaseState.ACTIVE
    return lease


def test_a_machine_that_starts_without_a_call_over_the_quota_is_stopped_again_and_nothing_else_waits_for_that():
    async def story(world: World) -> None:
        stopped = await ready(world)
        contract = stopped.instance_id or ""
        await world.engine.machines.stop(P1, VAST, contract)
        await world.sleep(60)
        await quota(world, gpus=1)
        await ready(world)
        assert world.sandbox.market.start(world.sandbox.market.instances[int(contract)])
        other = await world.reserve(1, project="p2")
        await world.sleep(90)
        states = {lease.id: lease.state for lease in await world.leases()}
        assert states[stopped.id] is LeaseState.PARKED
        assert [states[lease.id] for lease in other.leases] == [LeaseState.ACTIVE]
        assert world.sandbox.market.instances[int(contract)].works_since is None

    in_world(story, boot_time=(0.1, 0.2), settings={"reconcile_interval": 5.0})


def test_a_price_that_rises_above_a_quota_is_recorded_and_ends_nothing():
    async def story(world: World) -> None:
        lease = await ready(world, lease=3600.0)
        await quota(world, rate=lease.observed.price)
        assert await costs(world, lease, 1.2) is LeaseState.ACTIVE
        found = await usage(world)
        assert found.held == pytest.approx(1.2 * lease.observed.price, rel=0.05)

    in_world(story)


@pytest.mark.parametrize(
    ("policy", "becomes"), [("no_new", LeaseState.ACTIVE), ("release_newest", LeaseState.RELEASING)]
)
def test_a_price_that_rises_above_a_limit_ends_a_machine_unless_the_limit_only_refuses_new_ones(
    policy: Policy, becomes: LeaseState
):
    async def story(world: World) -> None:
        lease = await ready(world, lease=3600.0)
        await put(world, limit(1.05 * lease.observed.price / DOLLAR, policy=policy))
        assert await costs(world, lease, 1.5) is becomes

    in_world(story)


@pytest.mark.parametrize(("policy", "alive"), [("no_new", True), ("release_newest", False)])
def test_a_machine_without_an_end_is_booked_on_above_a_limit_that_only_refuses_new_ones(policy: Policy, alive: bool):
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        price = int((await world.lease()).observed.price)
        await put(world, limit(1.5 * price / DOLLAR, policy=policy))
        await world.sleep(2 * 3600)
        assert ((await world.lease()).state is LeaseState.ACTIVE) is alive

    in_prepaid_world(story, hours=1)
