"""What a pool needs next, by table: each rule with what does not follow."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.lease_facts import StopDue
from gpuproxy.model.leases import LeaseId, LeaseState, Observed
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, PoolEvent, PoolState
from gpuproxy.warmpool.deciding import decide
from gpuproxy.warmpool.scene import Act, Change, ConfirmGone, Fence, RentMachine, RentVolume, Rest, Scene, Seek, Start
from gpuproxy.warmpool.signals import Health, Signal
from tests.warmpool.scenes import NOW, PROVEN, S, at, incident, lease, scene

P, D, E = PoolState, Degraded, PoolEvent


def event(act: Act) -> PoolEvent | None:
    return act.event if isinstance(act, Change) else None


def reason(act: Act) -> Degraded | None:
    """Why the pool is degraded after the act; None if the act does not say."""
    return act.pool.degraded if isinstance(act, Change) and act.pool is not None else None


def released(act: Act) -> list[str]:
    return [lease_id for lease_id, _ in act.releases] if isinstance(act, Change) else []


# ------------------------------------------------------------------------------------------------------------- active


def test_a_healthy_pool_rests():
    assert isinstance(decide(scene()), Rest)


def test_a_lost_primary_begins_one_incident():
    act = decide(scene(signal=Signal.LOST))
    assert isinstance(act, Change)
    assert (act.event, act.opens) == (E.PRIMARY_LOST, True)
    assert act.incident is not None
    assert act.incident.kind == "failure"


@pytest.mark.parametrize(
    ("signal", "checks"),
    [(Signal.LOST, 2), (Signal.NONE, 9), (Signal.RUNS_SILENT, 9), (Signal.HOST_OFFLINE, 9), (Signal.STOPPED, 9)],
)
def test_nothing_less_begins_one(signal: Signal, checks: int):
    act = decide(scene(signal=signal, checks=checks))
    assert event(act) is not E.PRIMARY_LOST


def test_a_primary_that_the_reconciler_proved_gone_is_lost():
    assert event(decide(scene(primary=S.LOST, signal=Signal.NONE))) is E.PRIMARY_LOST


def test_an_open_incident_is_not_opened_twice():
    act = decide(scene(signal=Signal.LOST, state=P.DEGRADED, incident=incident()))
    assert isinstance(act, Change)
    assert (act.event, act.opens) == (E.PRIMARY_LOST, False)


def test_a_primary_that_this_server_could_not_start_was_not_stopped_by_somebody_else():
    stopped = {"primary": S.PARKED, "signal": Signal.STOPPED, "state": P.DEGRADED}
    assert reason(decide(scene(**stopped, pool={"degraded": D.NO_STANDBY}))) is D.STOPPED_OUTSIDE
    assert reason(decide(scene(**stopped, pool={"degraded": D.START_FAILED}))) is None


@pytest.mark.parametrize(
    ("signal", "checks", "degraded"),
    [
        (Signal.HOST_OFFLINE, 3, D.HOST_OFFLINE),
        (Signal.STOPPED, 3, D.STOPPED_OUTSIDE),
        (Signal.HOST_OFFLINE, 2, None),
        (Signal.STOPPED, 2, None),
        (Signal.RUNS_SILENT, 3, None),
        (Signal.NONE, 3, None),
    ],
)
def test_a_primary_in_trouble_degrades_the_pool(signal: Signal, checks: int, degraded: Degraded | None):
    assert reason(decide(scene(signal=signal, checks=checks))) is degraded


def test_a_primary_that_runs_and_is_silent_for_minutes_is_unreachable():
    assert reason(decide(scene(health=Health(Signal.RUNS_SILENT, 90, at(180), NOW, at(182))))) is D.UNREACHABLE


def test_a_primary_that_runs_and_is_silent_for_less_is_not():
    assert isinstance(decide(scene(health=Health(Signal.RUNS_SILENT, 80, at(170), NOW, at(172)))), Rest)


@pytest.mark.parametrize(
    ("facts", "degraded"),
    [
        ({"misses": 2}, D.NO_FREE_GPU),
        ({"misses": 1}, None),
        ({"looked_at": at(61)}, D.UNCHECKED),
        ({"looked_at": at(59)}, None),
    ],
)
def test_two_misses_or_a_minute_without_a_look_degrade_the_pool(facts: dict[str, Any], degraded: Degraded | None):
    assert reason(decide(scene(pool=facts))) is degraded


@pytest.mark.parametrize("state", [S.LOST, S.RELEASED, S.STARTING, S.RELEASING])
def test_a_standby_that_is_not_stopped_is_none(state: LeaseState):
    assert reason(decide(scene(standby=state))) is D.NO_STANDBY


@pytest.mark.parametrize("part", ["primary", "standby", "volume"])
@pytest.mark.parametrize(("hours", "degraded"), [(71, D.CONTRACT_ENDS), (73, None)])
def test_the_end_of_any_contract_that_the_pool_needs_degrades_it_in_time(
    part: str, hours: float, degraded: Degraded | None
):
    s = scene()
    lease_id = getattr(s.pool, part)
    ends = replace(s.leases[lease_id].observed, contract_ends_at=at(-hours * 3600))
    s = replace(s, leases={**s.leases, lease_id: replace(s.leases[lease_id], observed=ends)})
    assert reason(decide(s)) is degraded


def test_a_pool_without_a_standby_is_active_in_the_mode_recreate():
    assert isinstance(decide(scene(standby=None, pool={"mode": "recreate"})), Rest)


@pytest.mark.parametrize(
    ("changes", "degraded"),
    [({"contract_ends_at": at(-71 * 3600)}, D.CONTRACT_ENDS), ({"contract_ends_at": at(-73 * 3600)}, None)],
)
def test_a_contract_that_ends_within_three_days_degrades_the_pool(changes: dict[str, Any], degraded: Degraded | None):
    assert reason(decide(with_primary(scene(), **changes))) is degraded


@pytest.mark.parametrize(("hours", "degraded"), [(23.0, D.LOW_CREDIT), (25.0, None), (None, None)])
def test_credit_for_less_than_a_day_degrades_the_pool(hours: float | None, degraded: Degraded | None):
    assert reason(decide(scene(credit_hours=hours))) is degraded


@pytest.mark.parametrize(("word", "degraded"), [("lock_held", D.LOCK_HELD), ("wrong_volume", D.WRONG_VOLUME)])
def test_what_the_boot_script_says_of_the_lock_degrades_the_pool(word: str, degraded: Degraded):
    assert reason(decide(with_primary(scene(), boot=(("lock", word),)))) is degraded


@pytest.mark.parametrize("asked", ["test", "drill"])
def test_a_test_that_was_asked_for_begins(asked: str):
    act = decide(scene(pool={"asked": asked, "asked_by": "k1"}))
    assert isinstance(act, Change)
    assert act.event is E.TEST
    assert act.incident is not None
    assert (act.incident.kind, act.incident.asked_by) == (asked, "k1")


# ------------------------------------------------------------------------------------------------------------ degraded


def test_a_pool_that_could_fail_over_again_is_active():
    act = decide(scene(state=P.DEGRADED, pool={"degraded": D.NO_FREE_GPU}))
    assert event(act) is E.STANDBY_READY


def test_a_missing_standby_is_made():
    assert decide(scene(state=P.DEGRADED, standby=None)) == RentMachine("standby")


def test_a_missing_standby_is_not_made_before_the_next_try():
    assert not isinstance(decide(scene(state=P.DEGRADED, standby=None, pool={"next_try_at": at(-5)})), RentMachine)


def test_no_standby_is_made_while_the_primary_is_in_trouble():
    act = decide(scene(state=P.DEGRADED, standby=None, signal=Signal.HOST_OFFLINE))
    assert not isinstance(act, RentMachine)


@pytest.mark.parametrize("signal", [Signal.HOST_OFFLINE, Signal.RUNS_SILENT, Signal.NONE])
def test_a_suspended_failover_does_not_go_on_without_a_verdict(signal: Signal):
    act = decide(scene(state=P.DEGRADED, primary=S.STARTING, signal=signal, incident=incident()))
    assert event(act) is None


def test_a_suspended_failover_goes_on_once_the_primary_is_seen_stopped():
    act = decide(scene(state=P.DEGRADED, primary=S.PARKED, signal=Signal.STOPPED, incident=incident()))
    assert event(act) is E.PRIMARY_LOST


@pytest.mark.parametrize(
    ("looked", "misses", "expected"), [(1, 0, E.PRIMARY_LOST), (1, 1, None), (9, 0, None), (None, 0, None)]
)
def test_a_suspended_failover_goes_on_before_its_time_once_gpus_were_seen_free(
    looked: float | None, misses: int, expected: PoolEvent | None
):
    pool = {
        "degraded": D.START_FAILED, "next_try_at": at(-300), "step_began_at": at(5), "misses": misses,
        "looked_at": None if looked is None else at(looked),
    }  # fmt: skip
    act = decide(scene(state=P.DEGRADED, primary=S.PARKED, signal=Signal.STOPPED, incident=incident(), pool=pool))
    assert event(act) is expected


def test_a_suspended_failover_ends_once_the_primary_is_healthy():
    act = decide(scene(state=P.DEGRADED, incident=incident()))
    assert isinstance(act, Change)
    assert act.incident is not None
    assert (act.incident.outcome, act.incident.ended_at) == ("recovered", NOW)
    assert act.facts == ((LeaseId("primary"), StopDue(None)),), "the stop that the failover sent is over"


def test_one_good_check_does_not_end_it():
    act = decide(scene(state=P.DEGRADED, incident=incident(), checks=1))
    assert not isinstance(act, Change) or act.incident is None


def test_a_vanished_primary_is_confirmed_gone_before_a_suspended_failover_goes_on():
    act = decide(scene(state=P.DEGRADED, primary=S.LOST, signal=Signal.NONE, incident=incident()))
    assert isinstance(act, ConfirmGone)


# -------------------------------------------------------------------------------------------------------- provisioning


def provisioning(**changes: Any) -> Scene:
    pool = {"founded": False, "looked_at": None, **changes.pop("pool", {})}
    return scene(state=P.PROVISIONING, pool=pool, **changes)


def without_volume(s: Scene) -> Scene:
    return replace(s, pool=replace(s.pool, volume=None))


@pytest.mark.parametrize(
    ("s", "act"),
    [
        (without_volume(provisioning(primary=None, standby=None)), RentVolume()),
        (provisioning(primary=None, standby=None), RentMachine("primary")),
        (provisioning(standby=None, pool={"founded": True}), RentMachine("standby")),
    ],
)
def test_the_parts_are_made_in_order(s: Scene, act: Act):
    assert decide(s) == act


@pytest.mark.parametrize("state", [S.REQUESTED, S.UNKNOWN])
def test_nothing_is_made_beside_an_unknown_create(state: LeaseState):
    made = lease("primary", state, instance=None, created_at=at(100))
    s = provisioning(standby=None, others=(made,))
    assert isinstance(decide(s), Rest)


def test_a_primary_that_boots_is_waited_for():
    assert isinstance(decide(provisioning(primary=S.STARTING, standby=None)), Rest)


def test_a_primary_that_does_not_get_ready_is_released():
    slow = lease("primary", S.STARTING, started_at=at(901))
    s = provisioning(primary=S.STARTING, standby=None, others=(slow,), pool={"step_began_at": at(300)})
    assert released(decide(s)) == ["primary"]


def test_a_failed_first_provision_gives_back_all_that_was_made():
    s = provisioning(primary=None, standby=None, pool={"tries": 3, "error": "no room"})
    act = decide(s)
    assert event(act) is E.FAILED
    assert released(act) == ["volume"]


def test_a_failed_provision_keeps_a_primary_and_a_volume_that_were_in_use():
    act = decide(scene(state=P.PROVISIONING, standby=None, pool={"tries": 3}))
    assert event(act) is E.FAILED
    assert released(act) == []


def test_a_pool_is_not_active_before_somebody_looked_for_free_gpus():
    assert isinstance(decide(scene(state=P.PROVISIONING, pool={"looked_at": None})), Rest)


def test_a_pool_is_active_once_the_standbys_gpus_were_seen_free():
    assert event(decide(scene(state=P.PROVISIONING))) is E.PROVISIONED


def test_a_stopped_primary_is_started_only_when_nothing_else_can_write():
    writer = lease("failed", S.ACTIVE)
    s = scene(
        state=P.PROVISIONING, primary=S.PARKED, others=(writer,), pool={"failed": writer.id, "failed_until": at(-9)}
    )
    act = decide(s)
    assert isinstance(act, Fence)
    assert {each.id for each in act.leases} == {"failed", "standby"}


# -------------------------------------------------------------------------------------------------- searching, the rest


def test_a_pool_without_a_host_searches_one():
    s = scene(state=P.SEARCHING, primary=None, standby=None)
    s = replace(s, pool=replace(s.pool, host=type(s.pool.host)("")))
    assert decide(s) == Seek()


def test_what_the_pool_does_not_need_is_released():
    assert released(decide(scene(others=(lease("left over", S.PARKED),)))) == ["left over"]


def test_a_volume_is_never_released_by_itself():
    assert released(decide(scene(others=(lease("old", S.ACTIVE, kind="volume", instance="V.9"),)))) == []


def test_a_failed_primary_is_kept_until_its_time():
    kept = lease("failed", S.PARKED)
    facts = {"failed": kept.id, "failed_until": at(-1)}
    assert isinstance(decide(scene(others=(kept,), pool=facts)), Rest)
    assert released(decide(scene(others=(kept,), pool={**facts, "failed_until": at(0)}))) == ["failed"]


def test_disabling_gives_back_all_but_the_primary_and_the_volume():
    act = decide(scene(pool={"wanted": "disabled"}))
    assert event(act) is E.DISABLE
    assert released(act) == ["standby"]


def test_a_disable_waits_for_the_end_of_a_failover():
    act = decide(scene(state=P.FAILOVER, incident=incident(), signal=Signal.LOST, pool={"wanted": "disabled"}))
    assert event(act) is not E.DISABLE


def test_a_cleanup_releases_the_machines_first():
    act = decide(scene(state=P.DISABLED, pool={"wanted": "gone"}))
    assert released(act) == ["primary", "standby"]


def test_a_cleanup_waits_until_the_machines_are_proven_gone():
    s = scene(state=P.DISABLED, primary=S.RELEASING, standby=S.RELEASED, pool={"wanted": "gone"})
    assert isinstance(decide(s), Rest)


def test_a_cleanup_then_releases_the_volumes():
    s = scene(state=P.DISABLED, primary=S.RELEASED, standby=S.RELEASED, pool={"wanted": "gone"})
    assert released(decide(s)) == ["volume"]


def test_a_cleanup_that_keeps_the_volume_ends_without_the_machines():
    s = scene(state=P.DISABLED, primary=S.RELEASED, standby=S.RELEASED, pool={"wanted": "gone", "keep_volume": True})
    act = decide(s)
    assert released(act) == []
    assert isinstance(act, Change)
    assert act.pool is not None
    assert (act.pool.wanted, act.pool.account) == ("disabled", "vast-1")


def with_primary(s: Scene, **observed: Any) -> Scene:
    """The scene with other observations of the primary."""
    primary = s.primary
    assert primary is not None
    seen = replace(Observed(price=Micro(8), disk_price=Micro(1)), **observed)
    return replace(s, leases={**s.leases, primary.id: replace(primary, observed=seen)})


def test_a_stopped_primary_is_started_once_it_is_the_only_writer():
    s = scene(state=P.PROVISIONING, primary=S.PARKED, at_rest={"standby": PROVEN})
    act = decide(s)
    assert isinstance(act, Start)
    assert act.role == "primary"


def test_a_refused_start_is_not_repeated_before_the_next_try():
    s = scene(state=P.PROVISIONING, primary=S.PARKED, at_rest={"standby": PROVEN}, pool={"next_try_at": at(-5)})
    assert isinstance(decide(s), Rest)


def test_a_failed_provision_on_another_host_keeps_the_volume_of_the_old_one():
    old = lease("old", S.ACTIVE, kind="volume", instance="V.9")
    s = provisioning(primary=None, standby=None, others=(old,), pool={"tries": 3, "error": "no room"})
    assert released(decide(s)) == ["volume"]


@pytest.mark.parametrize(("role", "kind"), [("primary", "machine"), ("standby", "machine"), ("volume", "volume")])
@pytest.mark.parametrize("state", [P.PROVISIONING, P.DISABLED])
@pytest.mark.parametrize("sent", [True, False])
def test_disabling_gives_up_creates_that_were_never_sent(state: PoolState, role: str, kind: Any, *, sent: bool):
    """Another process that wrote the intent has lost its claim since. Nobody looks after a pool that is disabled."""
    creation = replace(lease("any", S.ACTIVE).creation, call_started_at=at(5) if sent else None)
    made = lease(role, S.REQUESTED, kind=kind, instance=None, creation=creation)
    act = decide(scene(state=state, others=(made,), pool={"wanted": "disabled"}))
    given_up = act.unsent if isinstance(act, Change) else ()
    assert given_up == (() if sent else (made.id,))
