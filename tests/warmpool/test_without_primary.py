"""A pool whose primary is gone without a failover: it is made again once nothing else can write to the volume."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.leases import Lease, LeaseState, Observed, Pending
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.memory import Memory
from gpuproxy.warmpool.provisioning import begun
from gpuproxy.warmpool.scene import Change, Fence, RentVolume, Rest, Scene
from gpuproxy.warmpool.signals import Health, Signal
from tests.warmpool.scenes import LIMITS, NOW, PROVEN, S, at, lease, scene
from tests.warmpool.test_deciding import event, reason, released

P, D, E = PoolState, Degraded, PoolEvent


def other(*, host: str) -> Lease:
    """The pool's standby, on a host that is online or offline."""
    seen = Observed(price=Micro(8), disk_price=Micro(1), billed="disk" if host == "online" else "nothing")
    return lease("standby", S.PARKED, observed=seen)


@pytest.mark.parametrize("primary", [S.RELEASED, S.PARKED])
@pytest.mark.parametrize(
    ("host", "seconds", "degraded"), [("offline", 91, D.HOST_OFFLINE), ("offline", 89, None), ("online", 900, None)]
)
def test_a_host_that_is_offline_is_waited_for_with_a_time_limit_in_provisioning_too(
    primary: LeaseState, host: str, seconds: float, degraded: Degraded | None
):
    pool = {"step_began_at": at(seconds), "tries": 1}
    act = decide(scene(state=P.PROVISIONING, primary=primary, others=(other(host=host),), pool=pool))
    assert reason(act) is degraded
    assert isinstance(act, Fence) is (degraded is None)
    assert released(act) == []


def test_a_first_provision_gives_back_what_was_made_when_that_time_is_over():
    pool = {"step_began_at": at(91), "founded": False}
    act = decide(scene(state=P.PROVISIONING, primary=S.RELEASED, others=(other(host="offline"),), pool=pool))
    assert reason(act) is D.PROVISION_FAILED
    assert set(released(act)) == {"standby", "volume"}


def test_its_time_limit_begins_once_the_old_primary_is_gone():
    gone = lease("primary", S.RELEASED, ended_at=at(10))
    offline = other(host="offline")
    act = decide(scene(state=P.PROVISIONING, others=(gone, offline), pool={"step_began_at": at(300)}))
    assert isinstance(act, Fence)


def test_its_time_limit_begins_anew_with_another_process():
    pool = {"step_began_at": at(300)}
    s = scene(state=P.PROVISIONING, primary=S.RELEASED, others=(other(host="offline"),), pool=pool)
    assert isinstance(decide(replace(s, seen_from=at(10))), Fence)
    assert reason(decide(replace(s, seen_from=at(91)))) is D.HOST_OFFLINE


STOPPED = lease("primary", S.PARKED, pending=Pending(stop_at=at(900)))
GONE = lease("primary", S.RELEASED, ended_at=at(900))
LOST_VOLUME = lease("volume", S.LOST, kind="volume", instance="V.1")


def left(primary: Lease, *others: Lease, **pool: Any) -> Scene:
    """A pool that is degraded because its host was offline while it was provisioned."""
    facts = {"degraded": D.HOST_OFFLINE, "step_began_at": at(300), "next_try_at": at(1), **pool}
    return scene(state=P.DEGRADED, others=(primary, *others), signal=Signal.NONE, pool=facts)


@pytest.mark.parametrize("primary", [STOPPED, GONE], ids=["stopped", "gone"])
def test_provisioning_goes_on_once_the_host_is_back(primary: Lease):
    assert event(decide(left(primary))) is E.PROVISION


DEAR = replace(STOPPED, observed=replace(STOPPED.observed, price=Micro(STOPPED.creation.ceiling + 1)))


@pytest.mark.parametrize(
    ("primary", "looked", "misses", "goes_on"),
    [(STOPPED, 200, 0, True), (STOPPED, 400, 0, False), (STOPPED, 200, 1, False), (DEAR, 200, 0, False)],
    ids=["free", "not seen since", "taken", "dear"],
)
def test_a_primary_that_could_not_be_started_is_tried_again_once_its_gpus_were_seen_free(
    primary: Lease, looked: float, misses: int, *, goes_on: bool
):
    act = decide(left(primary, degraded=D.START_FAILED, looked_at=at(looked), misses=misses))
    assert (event(act) is E.PROVISION) is goes_on


@pytest.mark.parametrize("founded", [True, False])
@pytest.mark.parametrize(("primary", "expected"), [(GONE, E.PROVISION), (STOPPED, None)], ids=["gone", "stopped"])
def test_provisioning_goes_on_once_it_is_known_that_no_primary_was_made(
    primary: Lease, founded: bool, expected: PoolEvent | None
):
    assert event(decide(left(primary, degraded=D.UNKNOWN_OUTCOME, founded=founded))) is expected


def test_a_failover_that_was_asked_for_without_a_primary_does_not_meet_the_next_one():
    act = decide(left(GONE, asked="manual", unfenced=True))
    assert isinstance(act, Change)
    assert act.pool is not None
    assert (act.pool.asked, act.pool.unfenced) == ("", False)


@pytest.mark.parametrize(
    "s",
    [
        left(GONE, next_try_at=at(-5)),
        left(GONE, other(host="offline")),
        left(GONE, LOST_VOLUME),
        left(GONE, degraded=D.NO_FREE_GPU),
        left(STOPPED, degraded=D.START_FAILED, misses=1),
        left(GONE, degraded=D.OVER_BUDGET),
        left(lease("primary", S.PARKED)),
    ],
    ids=[
        "before its time", "offline host", "without the volume", "for want of GPUs", "GPUs are taken", "over budget",
        "stopped by another",
    ],
)  # fmt: skip
def test_it_does_not_go_on(s: Scene):
    assert event(decide(s)) is None


def test_a_pool_that_is_provisioned_again_gets_no_other_volume_for_one_that_is_lost():
    act = decide(scene(state=P.PROVISIONING, others=(LOST_VOLUME,)))
    assert reason(act) is D.VOLUME_LOST
    first = scene(state=P.PROVISIONING, primary=None, standby=None, others=(LOST_VOLUME,), pool={"founded": False})
    assert decide(first) == RentVolume()


@pytest.mark.parametrize(("host", "kept"), [("", None), ("vast.ai/7", "volume")], ids=["searched", "the same"])
def test_a_pool_keeps_its_parts_only_if_it_is_provisioned_on_the_host_that_it_has(host: str, kept: str | None):
    """A pool that has lost its volume and searches a host has none: it is not the host of the old parts."""
    pool = replace(scene().pool, host=HostKey(host))
    new = begun(NOW, pool, pool.spec, HostKey(host), pool.account)
    assert (new.volume, new.founded) == (kept, kept is not None)


@pytest.mark.parametrize("founded", [True, False])
def test_nothing_takes_over_from_a_primary_that_never_worked(founded: bool):
    act = decide(scene(state=P.DEGRADED, primary=S.LOST, pool={"founded": founded, "degraded": D.UNKNOWN_OUTCOME}))
    assert (event(act) is E.PRIMARY_LOST) is founded


@pytest.mark.parametrize(("seconds", "expected"), [(899, []), (901, ["primary"])])
def test_a_primary_that_does_not_run_has_as_long_as_a_new_one_to_get_ready(seconds: float, expected: list[str]):
    seen = Observed(price=Micro(8), disk_price=Micro(1), ready_at=at(5000), faltered_at=at(seconds))
    primary = lease("primary", S.STARTING, started_at=at(9000), observed=seen)
    act = decide(scene(state=P.PROVISIONING, others=(primary,), pool={"step_began_at": at(2000)}))
    assert released(act) == expected


def test_a_primary_on_an_offline_host_is_not_released_because_it_does_not_get_ready():
    seen = Observed(price=Micro(8), disk_price=Micro(1), billed="nothing")
    primary = lease("primary", S.STARTING, started_at=at(9000), observed=seen)
    s = scene(state=P.PROVISIONING, others=(primary,), pool={"step_began_at": at(2000)})
    assert (reason(decide(s)), released(decide(s))) == (D.HOST_OFFLINE, [])
    first = scene(state=P.PROVISIONING, others=(primary,), pool={"step_began_at": at(2000), "founded": False})
    assert released(decide(first)) == ["primary"]


def test_a_stopped_primary_above_its_price_limit_is_not_started():
    dear = lease("primary", S.PARKED, observed=Observed(price=Micro(10), disk_price=Micro(1)))
    act = decide(scene(state=P.PROVISIONING, others=(dear,), at_rest={"standby": PROVEN}))
    assert (event(act), reason(act)) == (E.FAILED, D.START_FAILED)


def test_a_first_primary_that_does_not_get_ready_is_released_while_the_pool_is_degraded_too():
    slow = lease("primary", S.STARTING, started_at=at(901))
    facts = {"degraded": D.UNKNOWN_OUTCOME, "step_began_at": at(901), "founded": False}
    assert released(decide(scene(state=P.DEGRADED, others=(slow,), pool=facts))) == ["primary"]
    assert released(decide(scene(state=P.DEGRADED, others=(slow,), pool={**facts, "founded": True}))) == []


def test_a_primary_that_this_server_has_stopped_was_not_stopped_by_somebody_else():
    unsure = other(host="offline")
    act = decide(replace(left(STOPPED, unsure), health=Health(Signal.STOPPED, 9, at(30), at(2), at(40), at(3), 5)))
    assert isinstance(act, Rest)


def test_what_was_seen_of_a_primary_is_no_verdict_once_it_was_not_checked_for_a_while():
    memory = Memory(health=Health(Signal.LOST, 9, at(30), at(2), at(40), at(3), 5))
    memory.no_verdict()
    assert not memory.health.is_verdict(Signal.LOST, 1)
    assert (memory.health.checked_at, memory.health.good_at) == (at(2), at(40))


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
