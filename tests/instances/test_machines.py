"""Stopping and starting rented machines, and reading their logs: nothing is lost, and billing follows the status."""

import asyncio

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, NotFound, Unavailable
from gpuproxy.model.leases import LeaseState
from tests.world import VAST, World, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1")


async def active(world: World, **wanted: object) -> str:
    """The contract of a machine that is ready."""
    made = await world.reserve(1, wait_for="ready", seconds=600, **wanted)
    assert made.leases[0].state is LeaseState.ACTIVE
    return str(made.leases[0].instance_id)


async def slowly(world: World) -> None:
    """Make every commit, every request and every answer take half a second from now on."""
    world.delay = lambda: 0.5
    await world.restart()


async def state(world: World, contract: str) -> LeaseState:
    return (await world.engine.instances.by_contract(CALLER, VAST, contract)).lease.state


def test_a_stopped_machine_keeps_its_lease_and_costs_its_disk_only():
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        assert await state(world, contract) is LeaseState.PARKED
        before = (await world.engine.instances.by_contract(CALLER, VAST, contract)).cost
        await world.sleep(3600)
        stopped = await world.engine.instances.by_contract(CALLER, VAST, contract)
        assert stopped.cost - before == pytest.approx(stopped.lease.observed.disk_price, abs=2)
        await world.books_agree()

    in_world(story)


def test_a_restarted_machine_becomes_active_and_is_never_released_for_being_slow():
    async def story(world: World) -> None:
        contract = await active(world, on_not_ready="replace")
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(7200)
        await world.engine.machines.start(CALLER, VAST, contract)
        await world.sleep(300)
        assert await state(world, contract) is LeaseState.ACTIVE
        assert set(world.alive()) == {contract}

    in_world(story)


def test_stopping_twice_and_starting_twice_change_nothing():
    async def story(world: World) -> None:
        contract = await active(world)
        started = await world.engine.machines.start(CALLER, VAST, contract)
        assert started.lease.state is LeaseState.ACTIVE
        assert world.calls("start") == 0
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(600)
        assert world.calls("stop") == 2, "what is stopped is told again, but not by us"
        await world.engine.machines.start(CALLER, VAST, contract)
        await world.engine.machines.start(CALLER, VAST, contract)
        await world.sleep(80)
        assert await state(world, contract) is LeaseState.ACTIVE

    in_world(story)


def test_a_queued_start_is_cancelled():
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        world.arm("start", "start_refused", seconds=1200)
        with pytest.raises(FailedPrecondition, match="stays stopped") as refused:
            await world.engine.machines.start(CALLER, VAST, contract)
        assert refused.value.reason == "NO_CAPACITY"
        await world.sleep(3600)
        assert await state(world, contract) is LeaseState.PARKED

    in_world(story)


@pytest.mark.parametrize("times", [1, 20])
def test_cancelling_a_queued_start_is_repeated_until_it_works(times: int):
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        world.arm("start", "start_refused", seconds=100)
        world.arm("stop", "html_502", times=times)
        with pytest.raises(FailedPrecondition, match="stays stopped"):
            await world.engine.machines.start(CALLER, VAST, contract)
        await world.sleep(1800)
        assert await state(world, contract) is LeaseState.PARKED
        assert world.alive()[contract]["status"] == "stopped"
        await world.books_agree()

    in_world(story)


def test_a_machine_that_is_not_ready_yet_is_not_stopped():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        with pytest.raises(FailedPrecondition, match="being started"):
            await world.engine.machines.stop(CALLER, VAST, str(made.leases[0].instance_id))
        assert world.calls("stop") == 0

    in_world(story)


def test_a_releasing_machine_can_be_neither_stopped_nor_started():
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.instances.destroy(CALLER, VAST, contract)
        for act in (world.engine.machines.stop, world.engine.machines.start):
            with pytest.raises(FailedPrecondition) as refused:
                await act(CALLER, VAST, contract)
            assert refused.value.reason == "WRONG_STATE"

    in_world(story)


def test_another_projects_machine_does_not_exist():
    async def story(world: World) -> None:
        contract = await active(world)
        for act in (world.engine.machines.stop, world.engine.machines.start):
            with pytest.raises(NotFound):
                await act(Caller(project="p2"), VAST, contract)
        with pytest.raises(NotFound):
            await world.engine.machines.logs(Caller(project="p2"), VAST, contract, 10)

    in_world(story)


@pytest.mark.parametrize("fault", ["reset_after", "refuse_connection", "html_502"])
def test_a_stop_whose_answer_is_lost_may_be_repeated(fault: str):
    async def story(world: World) -> None:
        contract = await active(world)
        world.arm("stop", fault)
        with pytest.raises(Unavailable, match="may be repeated"):
            await world.engine.machines.stop(CALLER, VAST, contract)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        assert await state(world, contract) is LeaseState.PARKED

    in_world(story)


def test_a_stopped_machine_ends_at_its_time():
    async def story(world: World) -> None:
        from datetime import timedelta

        contract = await active(world, lease_duration=timedelta(hours=2))
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(2 * 3600 + 120)
        assert world.alive() == {}

    in_world(story)


def test_a_stop_cancels_a_pending_start():
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        await world.engine.machines.start(CALLER, VAST, contract)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(600)
        assert await state(world, contract) is LeaseState.PARKED
        assert world.alive()[contract]["status"] == "stopped"

    in_world(story)


@pytest.mark.parametrize("fault", ["reset_after", "status_500_after", "reset_before"])
def test_a_start_whose_answer_is_lost_is_cancelled_and_may_be_repeated(fault: str):
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        world.arm("start", fault)
        with pytest.raises(Unavailable, match="may be repeated"):
            await world.engine.machines.start(CALLER, VAST, contract)
        await world.sleep(300)
        assert world.alive()[contract]["status"] == "stopped"
        await world.engine.machines.start(CALLER, VAST, contract)
        await world.sleep(300)
        assert await state(world, contract) is LeaseState.ACTIVE

    in_world(story)


def test_a_queued_start_whose_caller_leaves_is_cancelled():
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        await slowly(world)
        world.arm("start", "start_refused", seconds=100)
        call = asyncio.create_task(world.engine.machines.start(CALLER, VAST, contract))
        await world.sleep(1.2)
        call.cancel()
        await world.sleep(1800)
        assert world.alive()[contract]["status"] == "stopped"

    in_world(story)


@pytest.mark.parametrize("after", [0.2, 0.7, 1.2, 1.7, 2.2])
def test_a_start_during_which_the_process_dies_runs_or_is_cancelled(after: float):
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        await slowly(world)
        call = asyncio.create_task(world.engine.machines.start(CALLER, VAST, contract))
        await world.sleep(after)
        await world.kill()
        call.cancel()
        await world.start()
        await world.sleep(600)
        accepted = (await world.engine.instances.by_contract(CALLER, VAST, contract)).lease.pending.stop_at is None
        assert world.alive()[contract]["status"] == ("running" if accepted else "stopped")

    in_world(story)


def test_two_concurrent_starts_do_not_undo_each_other():
    async def story(world: World) -> None:
        contract = await active(world)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        await slowly(world)
        world.arm("start", "start_refused", seconds=1)
        calls = [asyncio.create_task(world.engine.machines.start(CALLER, VAST, contract)) for _ in range(2)]
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(each, FailedPrecondition) for each in told] == [True, False], told
        await world.sleep(300)
        assert await state(world, contract) is LeaseState.ACTIVE

    in_world(story)


def test_a_machine_that_restarts_above_its_price_ceiling_is_stopped_and_not_released():
    async def story(world: World) -> None:
        contract = await active(world, max_price=1.0)
        await world.engine.machines.stop(CALLER, VAST, contract)
        await world.sleep(60)
        instance = world.sandbox.market.instances[int(contract)]
        instance.gpu_price = 9_000_000
        await world.engine.machines.start(CALLER, VAST, contract)
        await world.sleep(600)
        assert await state(world, contract) is LeaseState.PARKED
        assert set(world.alive()) == {contract}

    in_world(story)
