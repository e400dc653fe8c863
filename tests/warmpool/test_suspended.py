"""A failover that could not go on, and what its owner can do then: ask again, without the proof, or have it moved."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.pools import Degraded, PoolEvent, PoolSpec, PoolState, PoolView
from gpuproxy.model.reasons import Reason
from gpuproxy.store import pools
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.failing_over import failing_over
from gpuproxy.warmpool.scene import Change, Rest, Scene, Start
from gpuproxy.warmpool.signals import Health, Signal
from tests.simulation.pools_audit import PoolAudit
from tests.warmpool.scenes import NOW, PROVEN, S, at, incident, scene
from tests.warmpool.test_deciding import event, released
from tests.warmpool.test_life import caller, provisioned, status
from tests.warmpool.test_recreate import BOOTS, kill
from tests.world import World, in_world

HUNG = Health(Signal.RUNS_SILENT, 90, at(200), NOW, at(300), NOW, 90)
OFFLINE = Health(Signal.HOST_OFFLINE, 90, at(180), NOW, at(300), NOW, 90)
MOVES = PoolSpec(max_price=5.0, cross_host="empty")


def suspended(*, facts: Any = None, **changes: Any) -> Scene:
    """A pool whose failover began long ago, and whose primary hangs."""
    opened = incident(began_at=at(900), stop_sent_at=at(890), fenced_at=None, **(facts or {}))
    return scene(state=PoolState.DEGRADED, incident=opened, **{"health": HUNG, **changes})


# -------------------------------------------------------------------------------------------------------- asked again


@pytest.mark.parametrize("unfenced", [True, False])
def test_a_suspended_failover_goes_on_at_once_if_somebody_asks_for_it(*, unfenced: bool):
    pool = {"asked": "manual", "asked_by": "k2", "unfenced": unfenced, "degraded": Degraded.UNREACHABLE}
    act = decide(suspended(pool={**pool, "next_try_at": at(-300)}))
    assert isinstance(act, Change)
    assert (act.event, act.opens) == (PoolEvent.PRIMARY_LOST, False)
    assert act.pool is not None
    assert (act.pool.asked, act.pool.unfenced, act.pool.step_began_at) == ("", False, NOW)
    assert act.incident is not None
    assert (act.incident.unfenced, act.incident.asked_by, act.incident.stop_sent_at) == (unfenced, "k2", None)


@pytest.mark.parametrize("kind", ["test", "drill", "failure", "manual"])
def test_a_suspended_test_or_drill_goes_on_as_a_failover(kind: str):
    """It may have stopped the primary already, so its end without a successor would be an outage."""
    late = decide(suspended(primary=S.RELEASED, facts={"kind": kind}, pool={"next_try_at": at(10)}))
    asked = decide(suspended(facts={"kind": kind}, pool={"asked": "manual"}))
    assert isinstance(late, Change)
    assert isinstance(asked, Change)
    assert late.incident is not None
    assert asked.incident is not None
    assert late.incident.kind == ("manual" if kind == "manual" else "failure")
    assert asked.incident.kind == "manual"


def test_it_does_not_if_nobody_asks():
    assert isinstance(decide(suspended(pool={"degraded": Degraded.UNREACHABLE})), Rest)


@pytest.mark.parametrize("primary", [S.LOST, S.RELEASED, S.PARKED])
def test_a_failover_that_was_asked_for_does_not_meet_a_later_primary(primary: LeaseState):
    act = decide(suspended(primary=primary, pool={"asked": "manual", "unfenced": True}))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert (act.pool.asked, act.pool.unfenced) == ("", False)


@pytest.mark.parametrize("state", [PoolState.ACTIVE, PoolState.DEGRADED])
@pytest.mark.parametrize("primary", [S.RELEASING, S.UNKNOWN, S.RELEASED])
def test_a_failover_that_nothing_can_begin_with_is_forgotten(primary: LeaseState, state: PoolState):
    pool = {"asked": "manual", "unfenced": True, "degraded": Degraded.UNKNOWN_OUTCOME}
    act = decide(scene(state=state, primary=primary, signal=Signal.NONE, pool=pool))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert (act.event, act.pool.asked, act.pool.unfenced) == (None, "", False)


def test_an_old_failover_that_is_unfenced_now_first_tries_to_stop_the_primary():
    opened = incident(began_at=at(900), stop_sent_at=at(14), unfenced=True)
    s = scene(state=PoolState.FAILOVER, incident=opened, health=HUNG, at_rest={"standby": PROVEN})
    assert {each.id for each in failing_over(s).leases} == {"primary"}  # type: ignore[union-attr]
    later = replace(opened, stop_sent_at=at(15), fenced_at=at(0))
    assert isinstance(failing_over(replace(s, incident=later)), Start)


def test_an_unfenced_failover_waits_as_long_for_a_stop_that_can_not_be_sent():
    opened = incident(began_at=at(900), stop_sent_at=None, unfenced=True)
    unknown = {"primary": S.RELEASING, "health": HUNG, "at_rest": {"standby": PROVEN}}
    for seconds, expected in ((14, Rest), (15, Change)):
        facts = {"step_began_at": at(seconds)}
        act = failing_over(scene(state=PoolState.FAILOVER, incident=opened, pool=facts, **unknown))
        assert isinstance(act, expected)


async def hung(world: World) -> PoolView:
    """A pool whose primary runs and does not answer, whatever the server sends; its failover could not go on."""
    await world.sleep(5)
    view = await provisioned(world)
    assert view.primary is not None
    world.control("POST", f"instances/{view.primary.instance_id}/mute", {"seconds": 0})
    world.arm("stop", "stop_ignored", times=0)
    await world.sleep(240)
    with pytest.raises(Refusal) as refusal:
        await world.engine.pools.failover(caller(world, 200), 123, allow_unfenced=False)
    assert refusal.value.reason is Reason.DEADLINE_EXCEEDED
    now = await status(world)
    assert (now.pool.state, now.incident is None) == (PoolState.DEGRADED, False)
    return view


def test_an_unfenced_failover_replaces_a_primary_that_hangs():
    async def story(world: World) -> None:
        view = await hung(world)
        began = world.clock.monotonic()
        result = await world.engine.pools.failover(caller(world), 123, allow_unfenced=True)
        assert view.standby is not None
        assert result.new_primary.id == view.standby.id
        assert world.clock.monotonic() - began < 90
        world.control("DELETE", "faults")
        await world.sleep(900)
        now = await status(world)
        assert (now.pool.state, now.pool.failover_count, now.incident) == (PoolState.ACTIVE, 1, None)
        assert now.primary is not None
        assert now.primary.id == view.standby.id

    in_world(story, **BOOTS)


def test_a_primary_that_is_healthy_again_is_not_stopped_for_a_failover_of_before():
    async def story(world: World) -> None:
        view = await hung(world)
        with pytest.raises(Refusal):
            await world.engine.pools.failover(caller(world, 30), 123, allow_unfenced=False)
        await world.sleep(120)
        world.control("DELETE", "faults")
        assert view.primary is not None
        world.control("POST", f"instances/{view.primary.instance_id}/unmute", {})
        await world.sleep(600)
        now = await status(world)
        assert (now.pool.state, now.pool.failover_count, now.incident) == (PoolState.ACTIVE, 0, None)
        assert now.primary is not None
        assert now.primary.id == view.primary.id

    in_world(story, **BOOTS)


# ----------------------------------------------------------------------------------------------------- another host


@pytest.mark.parametrize("kind", ["failure", "manual", "drill"])
def test_a_suspended_failover_on_a_host_that_stays_offline_ends_and_the_pool_moves_if_its_owner_wants_that(kind: str):
    act = decide(
        suspended(health=OFFLINE, facts={"kind": kind}, pool={"spec": MOVES, "degraded": Degraded.HOST_OFFLINE})
    )
    assert isinstance(act, Change)
    assert act.incident is not None
    assert (act.incident.outcome, act.incident.ended_at, act.incident.reason) == ("failed", NOW, "the host is offline")
    assert act.pool is not None
    assert (act.pool.host, act.pool.volume, act.pool.data_state) == ("", None, "empty")
    assert released(act) == [], "what stands on the old host is released once the pool does not name it any more"


@pytest.mark.parametrize(
    ("health", "spec"),
    [
        (replace(OFFLINE, since=at(179)), MOVES),
        (OFFLINE, PoolSpec(max_price=5.0)),
        (HUNG, MOVES),
    ],
    ids=["not for long", "not wanted", "hangs"],
)  # fmt: skip
def test_it_does_not_move(health: Health, spec: PoolSpec):
    s = suspended(health=health, pool={"spec": spec, "degraded": Degraded.HOST_OFFLINE})
    act = decide(s)
    assert event(act) is None
    assert not isinstance(act, Change) or act.incident is None


def test_a_pool_whose_host_goes_offline_in_a_failover_is_made_anew_on_another_one():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world, cross_host="empty")
        assert view.volume is not None
        audit = PoolAudit(world)
        kill(world, view)
        while (await status(world)).incident is None:
            await world.sleep(0.5)
        machine = world.sandbox.market.machines[view.pool.host_number or 0]
        world.sandbox.market.set_online(machine, online=False)
        await world.sleep(timedelta(minutes=30).total_seconds())
        now = await status(world)
        assert (now.pool.state, now.incident, now.pool.data_state) == (PoolState.ACTIVE, None, "empty")
        assert now.pool.host != view.pool.host
        last = await world.db.read(lambda tx: pools.last_incident(tx, now.pool.id))
        assert last is not None
        assert (last.outcome, last.reason) == ("failed", "the host is offline")
        assert view.volume.instance_id in {each.instance_id for each in await world.live()}, "it is kept"
        world.sandbox.market.set_online(machine, online=True)
        await world.sleep(600)
        audit.safety()
        assert now.volume is not None
        kept = {each.instance_id for each in await world.live() if each.kind == "volume"}
        assert kept == {view.volume.instance_id, now.volume.instance_id}

    in_world(story, **BOOTS)
