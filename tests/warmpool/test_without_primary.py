"""A pool whose primary is gone without a failover: it is made again once nothing else can write to the volume."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.leases import Lease, LeaseId, LeaseState, Observed, Pending
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.scene import Change, Fence, Rest, Scene
from gpuproxy.warmpool.signals import Health, Signal
from tests.warmpool.scenes import LIMITS, PROVEN, S, at, lease, scene
from tests.warmpool.test_deciding import event, reason, released

P, D, E = PoolState, Degraded, PoolEvent


def other(state: LeaseState = S.PARKED, *, host: str = "online") -> Lease:
    """The pool's standby."""
    seen = Observed(price=Micro(8), disk_price=Micro(1), billed="disk" if host == "online" else "nothing")
    return lease("standby", state, observed=seen)


@pytest.mark.parametrize("primary", [S.RELEASED, S.PARKED])
@pytest.mark.parametrize(
    ("host", "seconds", "degraded"),
    [("online", 91, D.NOT_FENCED), ("offline", 91, D.HOST_OFFLINE), ("online", 89, None), ("offline", 89, None)],
)
def test_the_proof_that_nothing_else_writes_has_a_time_limit_in_provisioning_too(
    primary: LeaseState, host: str, seconds: float, degraded: Degraded | None
):
    pool = {"step_began_at": at(seconds), "tries": 1}
    act = decide(scene(state=P.PROVISIONING, primary=primary, others=(other(host=host),), pool=pool))
    assert reason(act) is degraded
    assert isinstance(act, Fence) is (degraded is None)
    assert released(act) == []


def test_a_first_provision_gives_back_what_was_made_when_that_time_is_over():
    act = decide(scene(state=P.PROVISIONING, primary=S.RELEASED, pool={"step_began_at": at(91), "founded": False}))
    assert reason(act) is D.PROVISION_FAILED
    assert set(released(act)) == {"standby", "volume"}


def test_its_time_limit_begins_once_the_old_primary_is_gone():
    gone = lease("primary", S.RELEASED, ended_at=at(10))
    act = decide(scene(state=P.PROVISIONING, others=(gone, other()), pool={"step_began_at": at(300)}))
    assert isinstance(act, Fence)


def test_its_time_limit_begins_anew_with_another_process():
    s = scene(state=P.PROVISIONING, primary=S.RELEASED, others=(other(),), pool={"step_began_at": at(300)})
    assert isinstance(decide(replace(s, seen_from=at(10))), Fence)
    assert reason(decide(replace(s, seen_from=at(91)))) is D.NOT_FENCED


def test_a_start_that_may_still_be_carried_out_is_waited_for():
    late = ((LeaseId("standby"), at(-60)),)
    pool = {"late_starts": late, "step_began_at": at(300)}
    s = scene(state=P.PROVISIONING, primary=S.RELEASED, at_rest={"standby": PROVEN}, pool=pool)
    assert isinstance(decide(s), Fence)


def test_a_release_may_take_longer_than_the_proof_of_a_stop():
    s = {"state": P.PROVISIONING, "primary": S.RELEASING, "standby": None}
    assert isinstance(decide(scene(**s, pool={"step_began_at": at(91)})), Rest)
    assert reason(decide(scene(**s, pool={"step_began_at": at(421)}))) is D.NOT_FENCED


STOPPED = lease("primary", S.PARKED, pending=Pending(stop_at=at(900)))
GONE = lease("primary", S.RELEASED, ended_at=at(900))


def left(primary: Lease, *others: Lease, **pool: Any) -> Scene:
    """A pool that is degraded because another machine was not proven stopped."""
    facts = {"degraded": D.NOT_FENCED, "step_began_at": at(300), "next_try_at": at(1), **pool}
    return scene(state=P.DEGRADED, others=(primary, *others), signal=Signal.STOPPED, checks=99, pool=facts)


@pytest.mark.parametrize("primary", [STOPPED, GONE], ids=["stopped", "gone"])
@pytest.mark.parametrize("degraded", [D.NOT_FENCED, D.HOST_OFFLINE, D.UNKNOWN_OUTCOME])
def test_provisioning_goes_on_where_it_had_to_stop(primary: Lease, degraded: Degraded):
    assert event(decide(left(primary, degraded=degraded))) is E.PROVISION


@pytest.mark.parametrize(("primary", "expected"), [(STOPPED, E.PRIMARY_LOST), (lease("primary", S.PARKED), None)])
def test_another_machine_takes_over_from_a_primary_that_this_server_has_stopped_and_can_not_start(
    primary: Lease, expected: PoolEvent | None
):
    assert event(decide(left(primary, degraded=D.START_FAILED))) is expected
    assert event(decide(left(primary, degraded=D.START_FAILED, next_try_at=at(-5)))) is None
    unseen = replace(left(primary, degraded=D.START_FAILED), health=Health(Signal.NONE, 99))
    assert event(decide(unseen)) is None, "its start may have been carried out"


def test_a_failover_that_was_asked_for_without_a_primary_does_not_meet_the_next_one():
    act = decide(left(GONE, asked="manual", unfenced=True))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert (act.pool.asked, act.pool.unfenced) == ("", False)


@pytest.mark.parametrize(
    "s",
    [
        left(GONE, next_try_at=at(-5)),
        left(GONE, other(host="offline"), degraded=D.HOST_OFFLINE),
        left(GONE, degraded=D.NO_FREE_GPU),
        left(GONE, degraded=D.START_FAILED),
        left(GONE, degraded=D.OVER_BUDGET),
        left(lease("primary", S.PARKED), degraded=D.HOST_OFFLINE, next_try_at=None),
    ],
    ids=[
        "before its time",
        "offline host",
        "for want of GPUs",
        "nothing to start",
        "over budget",
        "stopped by another",
    ],
)
def test_it_does_not_go_on(s: Scene):
    assert event(decide(s)) is None


def test_the_first_primary_of_a_pool_may_become_ready_while_it_is_degraded():
    """Its create had no answer for so long that the pool was degraded. From now on its standby is looked after."""
    act = decide(scene(state=P.DEGRADED, pool={"founded": False, "degraded": D.UNKNOWN_OUTCOME, "looked_at": None}))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert act.pool.founded


# ------------------------------------------------------------------------------------------- machines that are unfit


@pytest.mark.parametrize("role", ["primary", "standby"])
@pytest.mark.parametrize("why", [Reason.PRICE_MOVED, Reason.WRONG_GPU])
def test_a_machine_that_is_unfit_is_a_failed_try_and_the_next_one_is_not_rented_at_once(role: str, why: Reason):
    unfit = lease(role, S.RELEASED, reason=why, ended_at=at(5), observed=Observed(price=Micro(8), disk_price=Micro(1)))
    standby = lease("standby", S.RELEASED)
    others = (unfit,) if role == "standby" else (unfit, standby)
    for state in (P.PROVISIONING, P.DEGRADED) if role == "standby" else (P.PROVISIONING,):
        act = decide(scene(state=state, others=others, pool={"step_began_at": at(20), "degraded": D.NO_STANDBY}))
        assert isinstance(act, Change)
        assert act.pool is not None
        assert (act.pool.tries, act.pool.next_try_at) == (1, at(-30))
        pool = {"step_began_at": at(0), "next_try_at": at(-30), "tries": 1, "degraded": D.NO_STANDBY}
        assert isinstance(decide(scene(state=state, others=others, pool=pool)), Rest)


def test_after_three_of_them_provisioning_fails():
    unfit = lease("primary", S.RELEASED, reason=Reason.PRICE_MOVED, ended_at=at(50))
    pool = {"step_began_at": at(20), "tries": 3, "error": "machine 7 was released: PRICE_MOVED"}
    act = decide(scene(state=P.PROVISIONING, others=(unfit,), at_rest={"standby": PROVEN}, pool=pool))
    assert event(act) is E.FAILED


@pytest.mark.parametrize(("tries", "seconds"), [(0, 30), (1, 30), (2, 60), (6, 600), (5000, 600)])
def test_the_wait_before_the_next_try_doubles_up_to_a_limit(tries: int, seconds: float):
    assert LIMITS.wait_after(tries) == seconds
