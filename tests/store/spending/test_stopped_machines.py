"""What is held for a stopped machine: its disk, and its whole price while a start of it could still be carried out."""

import pytest

from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded, Hold
from gpuproxy.store import limits
from tests.store.spending.test_admission import DOLLAR, P1, limit, put, tried, usage
from tests.store.spending.test_running_machines import ready
from tests.world import VAST, World, in_world

LATE = 300.0
"""Seconds within which vast.ai carries out a start, if at all."""


async def stopped(world: World) -> Lease:
    lease = await ready(world, lease=4 * 3600.0)
    await world.engine.machines.stop(P1, VAST, lease.instance_id or "")
    await world.sleep(60)
    return await now_of(world, lease)


async def now_of(world: World, lease: Lease) -> Lease:
    return {each.id: each for each in await world.leases()}[lease.id]


async def hold_of(world: World, lease: Lease) -> Hold:
    found = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
    assert found is not None
    return found


async def start(world: World, lease: Lease) -> None:
    await world.engine.machines.start(P1, VAST, lease.instance_id or "")


def holds_all(hold: Hold, lease: Lease) -> bool:
    assert hold.rate in (lease.observed.price, lease.observed.disk_price)
    return hold.rate == lease.observed.price


@pytest.mark.parametrize(("fault", "refusal"), [("start_refused", FailedPrecondition), ("reset_after", Unavailable)])
def test_a_start_that_failed_holds_the_whole_price_until_it_can_not_be_carried_out_any_more(
    fault: str, refusal: type[Exception]
):
    async def story(world: World) -> None:
        lease = await stopped(world)
        assert not holds_all(await hold_of(world, lease), lease)
        world.arm("start", fault, **({"seconds": 9000} if fault == "start_refused" else {}))
        with pytest.raises(refusal):
            await start(world, lease)
        assert holds_all(await hold_of(world, lease), lease)
        await world.sleep(LATE - 20)
        assert holds_all(await hold_of(world, lease), lease)
        await world.sleep(LATE)
        lease = await now_of(world, lease)
        assert lease.state is LeaseState.PARKED
        assert not holds_all(await hold_of(world, lease), lease)

    in_world(story)


def test_a_late_start_is_paid_out_of_what_is_held():
    async def story(world: World) -> None:
        lease = await stopped(world)
        now = await usage(world, limit(1, "24h"))
        left = 4 * lease.observed.price  # enough for this machine to its end, and not for another one
        await put(world, limit((now.spent + left) / DOLLAR, "24h"))
        world.arm("start", "start_refused", seconds=100)
        world.arm("stop", "html_502", times=5)
        with pytest.raises(FailedPrecondition):
            await start(world, lease)
        assert isinstance(await tried(world, lease=3600.0), BudgetExceeded), "its money is not free yet"
        most, states = 0, set()
        for _ in range(60):
            await world.sleep(10)
            found = await usage(world, limit(1, "24h"))
            most = max(most, found.spent + found.held)
            states.add((await now_of(world, lease)).state)
        assert states > {LeaseState.PARKED}, "the start was carried out"
        assert most <= now.spent + left
        assert (await now_of(world, lease)).state is LeaseState.PARKED

    in_world(story)


def test_a_stop_that_overtakes_an_accepted_start_gives_its_money_back_too():
    async def story(world: World) -> None:
        lease = await stopped(world)
        world.arm("list", "status_500_before", times=3)
        await start(world, lease)
        await world.engine.machines.stop(P1, VAST, lease.instance_id or "")
        await world.sleep(3 * LATE)
        lease = await now_of(world, lease)
        assert lease.state is LeaseState.PARKED
        assert not holds_all(await hold_of(world, lease), lease)

    in_world(story)


def test_a_machine_that_runs_holds_its_whole_price_for_as_long():
    async def story(world: World) -> None:
        lease = await stopped(world)
        await start(world, lease)
        await world.sleep(3 * LATE)
        assert holds_all(await hold_of(world, lease), lease)

    in_world(story)
