"""What becomes of a machine that was started without an answer."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.leases import LeaseId, LeaseState, Observed, Pending
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import PoolState
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.scene import Change, Scene
from tests.warmpool.scenes import S, at, incident, lease, scene


def unanswered(now: LeaseState = S.STARTING, *, role: str = "primary", stop_at: float = -60, **rest: Any) -> Scene:
    """A machine was started without an answer, and is to be stopped in a minute."""
    started = lease(role, now, pending=Pending(stop_at=at(stop_at)), **rest.pop("changes", {}))
    made = scene(pool={"unanswered": (started.id, at(-60))}, **rest)
    return replace(made, leases={**made.leases, started.id: started})


@pytest.mark.parametrize("state", [S.STARTING, S.ACTIVE])
def test_a_machine_that_runs_after_a_start_without_an_answer_is_not_stopped(state: LeaseState):
    failing_over = {"state": PoolState.FAILOVER, "incident": incident(successor=LeaseId("standby"))}
    for scene_now in (unanswered(state), unanswered(state, role="standby", **failing_over)):
        act = decide(scene_now)
        assert isinstance(act, Change)
        assert act.pool is not None
        assert act.pool.unanswered is None
        [(lease_id, fact)] = act.facts
        assert fact.change(scene_now.leases[lease_id]).pending.stop_at is None


@pytest.mark.parametrize(
    "other",
    [
        unanswered(S.PARKED),
        unanswered(stop_at=1),  # another stop: a spending limit's, or its owner's
        unanswered(changes={"observed": Observed(price=Micro(10), disk_price=Micro(1))}),
        unanswered(role="standby"),
    ],
)
def test_any_other_stop_stands(other: Scene):
    act = decide(other)
    assert not isinstance(act, Change) or not act.facts


def test_a_stop_that_was_asked_for_after_the_decision_stands():
    act = decide(unanswered())
    assert isinstance(act, Change)
    stopped = lease("primary", S.STARTING, pending=Pending(stop_at=at(0)))
    assert [fact.change(stopped) for _, fact in act.facts] == [stopped]
