"""What becomes of a pool's machine that was started without an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.errors import Refusal
from gpuproxy.model.lease_facts import StopDue
from gpuproxy.model.money import Micro
from gpuproxy.model.pool_calls import EnableDemand
from gpuproxy.model.pools import PoolState, PoolView
from gpuproxy.outcomes import pool_owned
from gpuproxy.store import leases, pools
from tests.warmpool.test_found import disabled_with_a_stopped_primary, instance
from tests.warmpool.test_life import caller, provisioned, status
from tests.world import World, in_world

_DUE = 180.0
"""A start without an answer is undone after so many seconds."""


def told(story: Callable[[World], Awaitable[None]]) -> None:
    in_world(story, boot_time=(3.0, 5.0), settings={"reconcile_interval": 2.0})


async def enabled(world: World, *faults: tuple[str, str, dict[str, Any]]) -> PoolView:
    """A pool whose primary is started with faults: each is a call, a fault and its arguments."""
    before = await disabled_with_a_stopped_primary(world)
    for call, fault, args in faults:
        world.arm(call, fault, **args)
    await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
    return before


async def works_on(world: World, before: PoolView) -> None:
    """The primary works, and goes on until long after its stop was due."""
    running = instance(world, before.primary)
    since = running.works_since
    assert since is not None
    await world.sleep(_DUE + 420)
    assert running.works_since == since, "the working primary was stopped"


@pytest.mark.parametrize("fault", ["reset_after", "status_500_after"])
def test_a_primary_whose_start_was_carried_out_goes_on_running(fault: str):
    async def story(world: World) -> None:
        before = await enabled(world, ("start", fault, {}))
        await world.sleep(60)
        await works_on(world, before)
        assert (await status(world)).pool.state is PoolState.ACTIVE

    told(story)


def test_a_primary_that_is_first_listed_after_its_stop_was_due_goes_on_running():
    async def story(world: World) -> None:
        unanswered = ("start", "reset_after", {"times": 0})
        before = await enabled(world, ("list", "status_500_before", {"times": 0}), unanswered)
        await world.sleep(_DUE + 240)
        world.control("DELETE", "faults")
        await works_on(world, before)

    told(story)


def test_a_repeat_that_was_not_sent_does_not_undo_the_start_before_it():
    async def story(world: World) -> None:
        before = await enabled(world, ("list", "status_500_before", {"times": 0}), ("start", "reset_after", {}))
        await world.sleep(10)
        world.arm("start", "refuse_connection", times=0)
        await world.sleep(60)
        world.control("DELETE", "faults")
        await works_on(world, before)

    told(story)


def test_a_primary_has_its_whole_time_to_boot_from_its_start_and_not_from_the_call():
    async def story(world: World) -> None:
        before = await disabled_with_a_stopped_primary(world)
        await world.sleep(1200)  # it is no new machine any more
        world.arm("start", "rate_limited", times=2)
        await world.engine.pools.enable(caller(world), EnableDemand(machine_id=123))
        await world.sleep(400)
        now = await status(world)
        assert before.primary is not None
        assert now.primary is not None
        assert now.primary.id == before.primary.id, "it was released"
        assert now.pool.state is PoolState.ACTIVE

    in_world(story, boot_time=(80.0, 80.0), settings={"reconcile_interval": 2.0})


def test_a_stop_that_somebody_else_asks_for_stands():
    async def story(world: World) -> None:
        before = await enabled(world, ("start", "reset_after", {}))
        await world.sleep(_DUE - 60)
        assert instance(world, before.primary).works_since is not None
        assert (await status(world)).pool.state is PoolState.ACTIVE
        await world.db.write(lambda tx: leases.note(tx, leases.get(tx, before.primary.id), StopDue(tx.now())))
        await world.sleep(20)
        assert instance(world, before.primary).works_since is None

    told(story)


def test_only_the_stop_of_that_start_of_a_machine_that_is_wanted_and_not_too_expensive_is_lifted():
    async def story(world: World) -> None:
        before = await enabled(world, ("start", "reset_after", {}))
        await world.sleep(30)
        lease = await world.db.read(lambda tx: leases.get(tx, before.primary.id))
        stop_at = lease.pending.stop_at
        assert stop_at is not None
        others = [
            replace(lease, pending=replace(lease.pending, stop_at=stop_at - timedelta(seconds=1))),
            replace(lease, pending=replace(lease.pending, stop_at=None)),
            replace(lease, id=before.standby.id),
            replace(lease, observed=replace(lease.observed, price=Micro(lease.creation.ceiling + 1))),
        ]
        lifted = await world.db.read(lambda tx: [pool_owned.was_started(tx, each) for each in (lease, *others)])
        assert lifted == [True, False, False, False, False]

    told(story)


def test_a_start_whose_failure_is_recorded_twice_counts_once():
    """The answer to the commit is lost, so the unit is done again."""

    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world)
        await world.sleep(10)
        assert before.primary is not None
        world.arm("start", "start_refused", seconds=600, times=1)
        since: list[float] = []

        def lost() -> bool:
            if world.calls("start") == 1 and not since:
                since.append(world.clock.monotonic())
            return bool(since) and world.clock.monotonic() - since[0] < 1.5

        world.life.loses_answers = lost
        call = asyncio.ensure_future(world.engine.pools.test(caller(world), 123, allow_destroy=False))
        while not since or world.clock.monotonic() - since[0] < 4:
            await world.sleep(0.5)
        incident = await world.db.read(lambda tx: pools.open_incident(tx, before.pool.id))
        assert incident is not None
        assert incident.rung == 1
        with pytest.raises(Refusal):
            await call
        after = await status(world)
        assert after.primary is not None
        assert after.primary.id == before.primary.id
        assert instance(world, after.primary).works_since is not None

    told(story)
