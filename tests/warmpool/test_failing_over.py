"""A failover by table: fence, start, wait, promote; each rule with what does not follow."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.leases import LeaseId, LeaseState, Pending
from gpuproxy.model.pools import Degraded, PoolEvent, PoolSpec, PoolState
from gpuproxy.warmpool.failing_over import failing_over
from gpuproxy.warmpool.scene import Act, AtRest, Change, ConfirmGone, Fence, RentMachine, Rest, Scene, Start
from gpuproxy.warmpool.signals import Health, Signal
from tests.warmpool.scenes import NOW, ONE_READ, PROVEN, SILENT, S, at, incident, lease, scene

FENCED = {"primary": PROVEN, "standby": PROVEN}
E = PoolEvent


def failing(*, facts: Any = None, **changes: Any) -> Scene:
    """A failover whose old primary is stopped and silent, unless `changes` says otherwise."""
    base: dict[str, Any] = {"primary": S.PARKED, "health": SILENT, "at_rest": FENCED}
    return scene(state=PoolState.FAILOVER, incident=incident(**(facts or {})), **{**base, **changes})


def started(act: Act) -> str | None:
    return act.lease.id if isinstance(act, Start) else None


def fenced(act: Act) -> set[str]:
    return {each.id for each in act.leases} if isinstance(act, Fence) else set()


# --------------------------------------------------------------------------------------------------------------- fence


def test_a_fenced_primary_is_recorded_and_then_the_standby_is_started():
    act = failing_over(failing())
    assert isinstance(act, Change)
    assert act.incident is not None
    assert act.incident.fenced_at == NOW
    assert started(failing_over(failing(facts={"fenced_at": at(1)}))) == "standby"


@pytest.mark.parametrize(
    "proofs",
    [
        {"standby": PROVEN},
        {"standby": PROVEN, "primary": ONE_READ},
        {"standby": PROVEN, "primary": AtRest(at(5), at(1))},
    ],
)
def test_less_than_two_reads_five_seconds_apart_are_no_proof(proofs: dict[str, AtRest]):
    assert fenced(failing_over(failing(at_rest=proofs))) == {"primary"}


@pytest.mark.parametrize("good_at", [at(0), at(3), at(7)])
def test_a_primary_that_answers_is_not_at_rest(good_at: Any):
    health = Health(Signal.STOPPED, 3, at(6), NOW, good_at)
    assert fenced(failing_over(failing(health=health, facts={"fenced_at": at(1)}))) == {"primary"}


def test_a_primary_that_was_not_probed_since_the_first_read_is_not_at_rest():
    health = Health(Signal.STOPPED, 3, at(16), at(8), at(21))
    assert fenced(failing_over(failing(health=health))) == {"primary"}


def test_the_standby_too_is_proven_at_rest():
    assert fenced(failing_over(failing(at_rest={"primary": PROVEN}))) == {"standby"}


LATE = {"late_starts": ((LeaseId("standby"), at(-60)),)}
"""The standby's start has no answer, and the marketplace may carry it out for another minute."""


def test_a_machine_whose_start_may_still_be_carried_out_is_no_machine_at_rest():
    act = failing_over(failing(pool=LATE, facts={"fenced_at": at(1), "rung": 1}))
    assert fenced(act) == {"standby"}


def test_once_a_start_can_not_be_carried_out_any_more_two_reads_are_a_proof():
    over = {"late_starts": ((LeaseId("standby"), at(2)),)}
    assert isinstance(failing_over(failing(pool=over, facts={"fenced_at": at(1), "rung": 1})), RentMachine)
    read_before = {**FENCED, "standby": AtRest(at(20), at(3))}
    act = failing_over(failing(pool=over, at_rest=read_before, facts={"fenced_at": at(1), "rung": 1}))
    assert fenced(act) == {"standby"}


def test_the_same_machine_may_be_started_again_meanwhile():
    assert started(failing_over(failing(pool=LATE, facts={"fenced_at": at(1)}))) == "standby"


@pytest.mark.parametrize("state", [S.REQUESTED, S.UNKNOWN])
def test_nothing_is_started_beside_an_unknown_create(state: LeaseState):
    unknown = lease("new", state, instance=None)
    assert isinstance(failing_over(failing(others=(unknown,), facts={"fenced_at": at(1)})), Rest)


def test_an_unknown_create_of_a_stopped_machine_does_not_write():
    unknown = lease("new", S.UNKNOWN, instance=None, pending=Pending(stop_at=at(100)))
    assert started(failing_over(failing(others=(unknown,), facts={"fenced_at": at(1)}))) == "standby"


@pytest.mark.parametrize("state", [S.STARTING, S.ACTIVE, S.PARKED, S.RELEASING])
def test_every_other_machine_with_the_volume_is_fenced_or_waited_for(state: LeaseState):
    act = failing_over(failing(others=(lease("third", state),), facts={"fenced_at": at(1)}))
    assert fenced(act) == {"third"} if state is not S.RELEASING else isinstance(act, Rest)


def test_a_vanished_primary_is_confirmed_gone_first():
    assert isinstance(failing_over(failing(primary=S.LOST)), ConfirmGone)
    gone = failing(primary=S.LOST, gone=frozenset({LeaseId("primary")}), facts={"fenced_at": at(1)})
    assert started(failing_over(gone)) == "standby"


@pytest.mark.parametrize(
    ("signal", "degraded"), [(Signal.HOST_OFFLINE, Degraded.HOST_OFFLINE), (Signal.LOST, Degraded.NOT_FENCED)]
)
def test_a_fence_that_takes_too_long_is_given_up_and_the_primary_may_run(signal: Signal, degraded: Degraded):
    s = failing(health=Health(signal, 9, at(80), NOW, at(99)), at_rest={}, pool={"step_began_at": at(90)})
    act = failing_over(s)
    assert isinstance(act, Change)
    assert act.event is E.FAILED
    assert act.pool is not None
    assert act.pool.degraded is degraded
    assert act.incident is not None
    assert act.incident.ended_at is None
    assert [lease_id for lease_id, _ in act.facts] == ["primary"]


def test_an_unfenced_failover_still_tries_to_stop_the_primary():
    s = failing(at_rest={"standby": PROVEN}, facts={"unfenced": True, "stop_sent_at": at(14)})
    assert fenced(failing_over(s)) == {"primary"}


def test_an_unfenced_failover_goes_on_without_the_proof():
    s = failing(at_rest={"standby": PROVEN}, facts={"unfenced": True, "stop_sent_at": at(15), "fenced_at": at(1)})
    assert started(failing_over(s)) == "standby"


# ----------------------------------------------------------------------------------------------------------- successor


def following(state: LeaseState, *, seconds: float = 10.0, facts: Any = None, **changes: Any) -> Scene:
    """The standby was started so many seconds ago."""
    begun = {"fenced_at": at(50), "successor": LeaseId("standby"), "start_sent_at": at(seconds), **(facts or {})}
    return failing(standby=state, facts=begun, **changes)


def test_a_successor_that_boots_is_waited_for():
    assert isinstance(failing_over(following(S.STARTING)), Rest)


def test_a_successor_that_does_not_answer_in_time_is_to_stop_before_the_next_rung():
    act = failing_over(following(S.STARTING, seconds=120))
    assert isinstance(act, Change)
    assert act.incident is not None
    assert (act.incident.rung, act.incident.successor) == (1, None)
    assert [lease_id for lease_id, _ in act.facts] == ["standby"]


def test_the_next_rung_does_not_begin_before_the_last_machine_is_proven_at_rest():
    act = failing_over(failing(at_rest={"primary": PROVEN}, facts={"fenced_at": at(50), "rung": 1}))
    assert fenced(act) == {"standby"}


def test_the_next_rung_is_a_new_machine():
    assert failing_over(failing(facts={"fenced_at": at(50), "rung": 1})) == RentMachine("successor")


@pytest.mark.parametrize("kind", ["test", "drill"])
def test_a_test_rents_no_new_machine(kind: str):
    assert not isinstance(failing_over(failing(facts={"fenced_at": at(50), "rung": 1, "kind": kind})), RentMachine)


def test_the_last_rung_is_the_old_primary():
    assert started(failing_over(failing(facts={"fenced_at": at(50), "rung": 2}))) == "primary"


def test_after_the_last_rung_the_incident_stays_open():
    act = failing_over(failing(facts={"fenced_at": at(50), "rung": 3}))
    assert isinstance(act, Change)
    assert act.event is E.FAILED
    assert act.incident is not None
    assert (act.incident.ended_at, act.incident.rung) == (None, 0)


@pytest.mark.parametrize(("minutes", "wait"), [(0, 30.0), (1, 30.0), (4, 120.0), (20, 600.0), (600, 600.0)])
def test_a_failover_in_vain_is_tried_again_after_half_of_its_age_within_limits(minutes: float, wait: float):
    began = NOW - timedelta(minutes=minutes)
    act = failing_over(failing(facts={"began_at": began, "fenced_at": began, "rung": 3}))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert act.pool.next_try_at == NOW + timedelta(seconds=wait)


@pytest.mark.parametrize("state", [S.UNKNOWN, S.REQUESTED])
def test_an_unknown_successor_is_waited_for(state: LeaseState):
    new = lease("new", state, instance=None, created_at=at(100))
    s = failing(others=(new,), facts={"fenced_at": at(150), "successor": new.id, "start_sent_at": at(100), "rung": 1})
    assert isinstance(failing_over(s), Rest)


# ----------------------------------------------------------------------------------------------------------- promotion


def promoted(kind: str = "failure", **changes: Any) -> Change:
    act = failing_over(following(S.ACTIVE, facts={"kind": kind}, **changes))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert act.incident is not None
    assert act.incident.outcome == "promoted"
    assert act.pool.primary == "standby"
    assert act.pool.failover_count == 1
    return act


def test_a_successor_that_answers_is_the_primary_in_one_change():
    act = promoted()
    assert act.event is E.PROMOTED
    assert act.pool is not None
    assert (act.pool.standby, act.pool.failed) == (None, "primary")
    assert act.pool.failed_until == NOW + timedelta(hours=24)


def test_a_failed_primary_that_is_not_to_be_kept_is_released():
    act = promoted(pool={"spec": PoolSpec(max_price=5.0, keep_failed=timedelta(0))})
    assert [lease_id for lease_id, _ in act.releases] == ["primary"]


@pytest.mark.parametrize("kind", ["test", "drill"])
def test_a_test_swaps_the_roles_and_releases_nothing(kind: str):
    act = promoted(kind)
    assert act.event is E.PROMOTED_WITH_STANDBY
    assert act.pool is not None
    assert (act.pool.standby, act.pool.failed) == ("primary", None)
    assert act.releases == ()


def test_an_old_primary_that_is_gone_can_not_be_the_standby():
    act = promoted("test", primary=S.LOST, gone=frozenset({LeaseId("primary")}))
    assert act.event is E.PROMOTED


def test_a_failover_whose_incident_has_ended_does_not_begin_again():
    act = failing_over(replace(failing(), incident=None))
    assert isinstance(act, Change)
    assert act.event is E.FAILED


# ------------------------------------------------------------------------------------------------------------ recreate


def recreating(primary: LeaseState, *, facts: Any = None, **changes: Any) -> Scene:
    pool = {"mode": "recreate", **changes.pop("pool", {})}
    return failing(
        primary=primary, standby=None, pool=pool, facts={"fenced_at": at(5), "rung": 1, **(facts or {})}, **changes
    )


def test_in_the_mode_recreate_the_old_primary_is_destroyed_first():
    act = failing_over(recreating(S.PARKED))
    assert isinstance(act, Change)
    assert [lease_id for lease_id, _ in act.releases] == ["primary"]


def test_it_is_not_destroyed_while_the_host_has_no_room_for_another_machine():
    act = failing_over(recreating(S.PARKED, pool={"misses": 1}))
    assert isinstance(act, Change)
    assert act.releases == ()


def test_the_new_machine_waits_until_the_old_one_is_gone():
    assert isinstance(failing_over(recreating(S.RELEASING)), Rest)
    assert failing_over(recreating(S.RELEASED)) == RentMachine("successor")
