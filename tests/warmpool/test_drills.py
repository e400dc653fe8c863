"""Drills: a pool tests its failover by itself, within the hours that its owner allows."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.pools import PoolEvent, PoolSpec, PoolState
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.scene import Change, Rest, Scene
from gpuproxy.warmpool.signals import Signal
from tests.warmpool.scenes import NOW, at, scene
from tests.warmpool.test_life import provisioned, status
from tests.world import World, in_world

WEEK = timedelta(days=7)


def drilling(*, window: tuple[int, int] = (0, 24), due: float | None = 0.0, **changes: Any) -> Scene:
    """A pool whose drill is due for so many seconds (None: no drill is planned)."""
    spec = PoolSpec(max_price=5.0, drill_every=WEEK, drill_window=window)
    pool = {"spec": spec, "next_drill_at": None if due is None else at(due), **changes.pop("pool", {})}
    return scene(pool=pool, **changes)


def test_a_drill_that_is_due_begins_and_the_next_one_is_planned():
    act = decide(drilling())
    assert isinstance(act, Change)
    assert act.event is PoolEvent.TEST
    assert act.incident is not None
    assert (act.incident.kind, act.incident.asked_by) == ("drill", "")
    assert act.pool is not None
    assert act.pool.next_drill_at == NOW + WEEK


def test_a_drill_that_is_not_due_does_not_begin():
    assert isinstance(decide(drilling(due=-1.0)), Rest)


def test_the_first_drill_is_planned():
    act = decide(drilling(due=None))
    assert isinstance(act, Change)
    assert (act.event, act.incident) == (None, None)
    assert act.pool is not None
    assert act.pool.next_drill_at == NOW + WEEK


def test_a_shorter_interval_moves_the_next_drill():
    act = decide(drilling(due=-10 * 86_400.0))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert act.pool.next_drill_at == NOW + WEEK


@pytest.mark.parametrize(
    ("window", "begins"),
    [((0, 24), True), ((13, 14), True), ((12, 13), False), ((14, 24), False), ((22, 14), True), ((22, 6), False)],
)
def test_a_drill_begins_only_within_its_hours(window: tuple[int, int], begins: bool):
    assert NOW.hour == 13
    assert isinstance(decide(drilling(window=window)), Change) is begins


@pytest.mark.parametrize(
    "changes",
    [{"pool": {"mode": "recreate"}}, {"pool": {"spec": PoolSpec(max_price=5.0)}}, {"pool": {"misses": 2}}],
)
def test_no_drill_begins_without_a_standby_that_can_take_over(changes: dict[str, Any]):
    act = decide(drilling(**changes))
    assert not isinstance(act, Change) or act.event is not PoolEvent.TEST


def test_a_lost_primary_is_a_failure_and_no_drill():
    act = decide(drilling(signal=Signal.LOST))
    assert isinstance(act, Change)
    assert act.incident is not None
    assert act.incident.kind == "failure"


def test_a_failure_does_not_name_the_key_that_asked_for_an_earlier_test():
    s = drilling(signal=Signal.LOST)
    act = decide(replace(s, pool=replace(s.pool, asked_by="k1")))
    assert isinstance(act, Change)
    assert act.incident is not None
    assert act.incident.asked_by == ""


def test_drills_swap_the_roles_one_after_the_other():
    async def story(world: World) -> None:
        await world.sleep(5)
        before = await provisioned(world, drill_every=timedelta(minutes=10))
        await world.sleep(700)
        once = await status(world)
        assert once.pool.state is PoolState.ACTIVE
        assert (once.pool.primary, once.pool.standby) == (before.pool.standby, before.pool.primary)
        assert [each.kind for each in once.failovers] == ["drill"]
        await world.sleep(600)
        assert [each.kind for each in (await status(world)).failovers] == ["drill", "drill"]

    in_world(story, boot_time=(3.0, 5.0))
