"""A pool whose primary is gone without a failover: it is made again once nothing else can write to the volume."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.leases import Lease, LeaseId, LeaseState, Observed
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, PoolSpec, PoolState
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.scene import Change, Fence, RentMachine, Rest, Scene
from gpuproxy.warmpool.signals import Signal
from tests.warmpool.scenes import PROVEN, S, at, lease, scene
from tests.warmpool.test_deciding import reason, released

P, D = PoolState, Degraded


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


def test_its_time_limit_begins_once_the_old_primary_is_gone():
    gone = lease("primary", S.RELEASED, ended_at=at(10))
    act = decide(scene(state=P.PROVISIONING, others=(gone, other()), pool={"step_began_at": at(300)}))
    assert isinstance(act, Fence)


def test_a_release_may_take_longer_than_the_proof_of_a_stop():
    s = {"state": P.PROVISIONING, "primary": S.RELEASING, "standby": None}
    assert isinstance(decide(scene(**s, pool={"step_began_at": at(91)})), Rest)
    assert reason(decide(scene(**s, pool={"step_began_at": at(421)}))) is D.NOT_FENCED


def without_primary(*others: Lease, **pool: Any) -> Scene:
    """A degraded pool whose primary was given back because it did not get ready."""
    facts = {"degraded": D.HOST_OFFLINE, "step_began_at": at(300), **pool}
    return scene(state=P.DEGRADED, primary=S.RELEASED, others=others, signal=Signal.RUNS_SILENT, checks=99, pool=facts)


def alone(*others: Lease, **pool: Any) -> Scene:
    """Such a pool whose standby is proven at rest."""
    return replace(without_primary(*others, **pool), at_rest={LeaseId("standby"): PROVEN})


def test_a_primary_that_was_given_back_is_made_again_once_nothing_else_writes():
    assert decide(alone()) == RentMachine("primary")


@pytest.mark.parametrize(
    "s",
    [
        alone(next_try_at=at(-5)),
        alone(degraded=D.OVER_BUDGET),
        alone(lease("volume", S.RELEASED, kind="volume", instance="V.1"), degraded=D.VOLUME_LOST),
        without_primary(other(host="offline")),
    ],
    ids=["before the next try", "over budget", "without its volume", "on an offline host"],
)
def test_it_is_not_made_again(s: Scene):
    assert isinstance(decide(s), Rest)


def test_it_is_not_made_again_beside_a_machine_that_may_write():
    assert decide(without_primary()) == Fence((without_primary().leases[LeaseId("standby")],))


def test_a_new_primary_that_does_not_get_ready_is_given_back():
    slow = lease("primary", S.STARTING, started_at=at(901))
    s = scene(state=P.DEGRADED, others=(slow,), pool={"degraded": D.HOST_OFFLINE, "step_began_at": at(300)})
    assert released(decide(s)) == ["primary"]


def test_a_primary_that_was_ready_once_is_not():
    seen = Observed(price=Micro(8), disk_price=Micro(1), ready_at=at(5000))
    slow = lease("primary", S.STARTING, started_at=at(5100), observed=seen)
    s = scene(state=P.DEGRADED, others=(slow,), pool={"degraded": D.HOST_OFFLINE, "step_began_at": at(3000)})
    assert released(decide(s)) == []


def test_a_pool_without_primary_on_an_offline_host_goes_elsewhere_if_its_owner_wants_that():
    s = without_primary(other(host="offline"), spec=PoolSpec(max_price=5.0, cross_host="empty"))
    act = decide(s)
    assert isinstance(act, Change)
    assert act.pool is not None
    assert act.pool.seeks
