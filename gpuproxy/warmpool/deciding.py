"""What a pool needs next: one act, decided from what is stored and seen. Pure.

A decision about an absent or silent thing needs more than one look: `signals` and `Scene.writers` see to that. While
the outcome of a create is unknown, nothing is started that could write to the volume beside it.
"""

from dataclasses import replace

from gpuproxy.model.lease_facts import StopDue
from gpuproxy.model.leases import RENTED, TERMINAL, UNRESOLVED, Lease, LeaseId, LeaseState
from gpuproxy.model.pools import Degraded, Incident, IncidentKind, Pool, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool import drills
from gpuproxy.warmpool.ending import disabling, ending
from gpuproxy.warmpool.excluding import exclusion, is_offline
from gpuproxy.warmpool.failing_over import elsewhere, failing_over
from gpuproxy.warmpool.scene import (
    SOON,
    Act,
    Change,
    ConfirmGone,
    Fence,
    RentMachine,
    RentVolume,
    Rest,
    Scene,
    Seek,
    Start,
)
from gpuproxy.warmpool.signals import Signal
from gpuproxy.warmpool.tidying import releasable, tidied
from gpuproxy.warmpool.tries import calm, later, tried, unfit, until_try

MOST_TRIES = 3
"""Failed tries of one step of provisioning. After that, what was made is given back."""


def decide(s: Scene) -> Act:
    """The next act."""
    if s.pool.wanted == "gone":
        return ending(s)
    if s.pool.wanted == "disabled" and s.pool.state is not PoolState.FAILOVER:
        return disabling(s)
    if (tidying := tidied(s)) is not None:
        return tidying
    if s.pool.state is PoolState.SEARCHING:
        return _searching(s)
    if s.pool.state is PoolState.PROVISIONING:
        return _provisioning(s)
    if s.pool.state is PoolState.FAILOVER:
        return failing_over(s)
    return _upkeep(s) if s.pool.state is PoolState.ACTIVE else _degraded(s)


def _searching(s: Scene) -> Act:
    if s.pool.host:
        pool = replace(s.pool, step_began_at=s.now)
        return Change(event=PoolEvent.HOST_FOUND, reason="the pool has a host", pool=pool)
    return Seek() if s.may_try else until_try(s)


# ------------------------------------------------------------------------------------------------------ provisioning


def _provisioning(s: Scene) -> Act:
    return _volume_first(s) or _primary_first(s) or _standby_last(s)


def _volume_first(s: Scene) -> Act | None:
    volume = s.volume
    if s.volume_lost and s.pool.founded:
        return _failed(s, Degraded.VOLUME_LOST, Degraded.VOLUME_LOST.sentence)
    if not s.pool.founded and (unusable := _without_volume(s)) is not None:
        return unusable
    if volume is None or volume.state in TERMINAL:
        return _again_or_failed(s, RentVolume(), Degraded.PROVISION_FAILED, volume)
    if volume.state in UNRESOLVED:
        return _unresolved(s, volume)
    return None


def _without_volume(s: Scene) -> Act | None:
    """Nothing is rented for a volume that no listing has shown yet: its price may lead to its release.

    Machines with a volume that ends are released, because they would keep it from being deleted.
    """
    volume = s.volume
    if s.volume_lost or (volume is not None and volume.state is LeaseState.RELEASING):
        made = tuple((each.id, Reason.POOL_CHANGED) for each in s.machines if releasable(each))
        if made:
            return Change(reason="the volume is not kept", releases=made)
    if volume is None or volume.state not in (LeaseState.STARTING, LeaseState.RELEASING):
        return None
    if volume.state is LeaseState.STARTING and s.waited(volume.started_at, s.limits.create_seconds):
        return _failed(s, Degraded.PROVISION_FAILED, "no listing has shown the new volume")
    if volume.state is LeaseState.RELEASING and s.waited(s.pool.step_began_at, s.limits.create_seconds):
        return _failed(s, Degraded.PROVISION_FAILED, "a volume that is not kept could not be deleted yet")
    return Rest(SOON)


def _primary_first(s: Scene) -> Act | None:
    primary = s.primary
    if primary is None or primary.state in TERMINAL or primary.state is LeaseState.RELEASING:
        if writers := s.writers():
            return _excluded(s, writers)
        return _again_or_failed(s, RentMachine("primary"), Degraded.NO_FREE_GPU, primary)
    if primary.state in UNRESOLVED:
        return _unresolved(s, primary)
    if primary.state is LeaseState.PARKED:
        if others := s.writers(but=primary.id):
            return _excluded(s, others)
        if primary.observed.price > primary.creation.ceiling:
            return _failed(s, Degraded.START_FAILED, f"machine {primary.instance_id} costs more than the limit now")
        return _again_or_failed(s, Start(primary, "primary"), Degraded.START_FAILED, primary)
    if primary.state is LeaseState.STARTING:
        return _booting(s, primary)
    return None if s.pool.founded else _founded(s)


def _founded(s: Scene) -> Change:
    return Change(reason="the primary answers", pool=replace(s.pool, founded=True, tries=0, step_began_at=s.now))


def _standby_last(s: Scene) -> Act:
    pool, standby = s.pool, s.standby
    if pool.mode == "recreate":
        return _checked_first(s)
    if standby is None or standby.state in TERMINAL or standby.state is LeaseState.RELEASING:
        return _again_or_failed(s, RentMachine("standby"), Degraded.NO_STANDBY, standby)
    if standby.state in UNRESOLVED:
        return _unresolved(s, standby)
    if standby.state is not LeaseState.PARKED:
        return _booting(s, standby)
    return _checked_first(s)


def _checked_first(s: Scene) -> Act:
    """The pool is ready once the standby's GPUs were seen free."""
    if (trouble := s.trouble) is Degraded.NONE and s.pool.looked_at is not None:
        return Change(event=PoolEvent.PROVISIONED, reason="a standby can take over", pool=calm(s.pool))
    if trouble not in (Degraded.NONE, Degraded.UNCHECKED) or s.waited(s.pool.step_began_at, s.limits.unchecked_seconds):
        reason = trouble or Degraded.UNCHECKED
        return _failed(s, reason, reason.sentence)
    return Rest(SOON)


def _booting(s: Scene, lease: Lease) -> Act:
    """Wait for a machine that boots, up to its time limit."""
    limits, faltered_at = s.limits, lease.observed.faltered_at
    has_time = faltered_at is not None and not s.waited(faltered_at, limits.ready_seconds)
    late = s.waited(lease.started_at, limits.ready_seconds) and s.waited(s.pool.step_began_at, limits.start_seconds)
    if late and lease.id == s.pool.primary and s.pool.founded and is_offline(lease):
        return _failed(s, Degraded.HOST_OFFLINE, Degraded.HOST_OFFLINE.sentence)
    if late and not has_time:
        return Change(
            reason=f"machine {lease.instance_id} did not get ready",
            pool=tried(s, f"machine {lease.instance_id} did not get ready in time"),
            releases=((lease.id, Reason.NOT_READY),),
        )
    return Rest(SOON)


def _unresolved(s: Scene, lease: Lease) -> Act:
    """Wait until the outcome of a create is known. Nothing is started beside it."""
    if not s.waited(lease.created_at, s.limits.create_seconds):
        return Rest(SOON)
    if s.pool.state is PoolState.PROVISIONING:
        return _failed(s, Degraded.UNKNOWN_OUTCOME, f"the outcome of a create ({lease.label}) is unknown", keep=True)
    return Rest(SOON)


def _again_or_failed(s: Scene, act: Act, reason: Degraded, last: Lease | None) -> Act:
    if (counted := unfit(s, last)) is not None:
        return counted
    if s.pool.tries >= MOST_TRIES:
        why = s.pool.error or (last.observed.status_message if last else "") or reason.sentence
        return _failed(s, s.pool.degraded or reason, why)
    return act if s.may_try else until_try(s)


def _failed(s: Scene, degraded: Degraded, why: str, *, keep: bool = False) -> Change:
    """Provisioning failed: give back what was made, unless the primary was ready once."""
    kept = s.pool.founded or keep
    pool = replace(s.pool, degraded=degraded, error=why, progress="", tries=0, next_try_at=later(s, s.pool.tries))
    if not kept:
        pool = replace(pool, primary=None, standby=None, volume=None, checked_at=None, looked_at=None, misses=0)
    parts = () if kept else (s.primary, s.standby, s.volume)  # a volume that is kept from another host is none
    made = [each for each in parts if each is not None and releasable(each)]
    return Change(
        event=PoolEvent.FAILED,
        reason=why,
        pool=pool,
        releases=tuple((each.id, Reason.POOL_CHANGED) for each in made),
    )


# -------------------------------------------------------------------------------------------------- active and degraded


def _upkeep(s: Scene) -> Act:
    if (begun := _beginning(s)) is not None:
        return begun
    trouble = _primary_trouble(s) or s.trouble
    if trouble is not Degraded.NONE:
        pool = replace(s.pool, degraded=trouble, error=trouble.sentence, tries=0, next_try_at=None)
        return Change(event=PoolEvent.STANDBY_LOST, reason=trouble.sentence, pool=pool)
    if drills.is_due(s):
        return _begun(s, "drill", PoolEvent.TEST, "a drill is due")
    return drills.planned(s) or Rest(s.limits.check_seconds)


def _beginning(s: Scene) -> Act | None:
    """A failover that was asked for, or that the primary's failure demands. A wish never meets a later primary."""
    pool, primary = s.pool, s.primary
    if s.incident is not None:
        return None
    if pool.asked and primary is not None and primary.state in RENTED:
        kind: IncidentKind = pool.asked
        event = PoolEvent.PRIMARY_LOST if kind == "manual" else PoolEvent.TEST
        return _begun(s, kind, event, f"a failover was asked for ({kind})")
    is_gone = primary is not None and primary.state is LeaseState.LOST
    can_fail_over = pool.founded and not s.volume_lost
    if can_fail_over and (is_gone or s.health.is_verdict(Signal.LOST, s.limits.failures)):
        return _begun(s, "failure", PoolEvent.PRIMARY_LOST, "the primary is lost")
    if pool.asked:
        return Change(reason="no primary can be replaced", pool=replace(pool, asked="", unfenced=False))
    return None


def _begun(s: Scene, kind: IncidentKind, event: PoolEvent, reason: str) -> Change:
    pool = replace(s.pool, asked="", unfenced=False, tries=0, next_try_at=None, step_began_at=s.now, progress=reason)
    if kind == "drill":
        pool = drills.after_drill(pool, s.now)
    pool = _to_be_looked_at(pool)
    incident = Incident(
        pool_id=s.pool.id,
        number=0,
        kind=kind,
        primary=s.pool.primary or LeaseId(""),
        asked_by=s.pool.asked_by if s.pool.asked else "",
        unfenced=s.pool.unfenced,
        began_at=s.now,
        last_good_at=s.health.good_at if kind == "failure" else s.now,
    )
    return Change(event=event, reason=reason, pool=pool, incident=incident, opens=True)


def _to_be_looked_at(pool: Pool) -> Pool:
    """Before a failover destroys the primary (`recreate`), the host's free GPUs are looked at anew."""
    return replace(pool, looked_at=None) if pool.mode == "recreate" else pool


def _primary_trouble(s: Scene) -> Degraded:
    """What is wrong with a primary that is not proven lost, and with its volume."""
    health, limits = s.health, s.limits
    if s.volume_lost:
        return Degraded.VOLUME_LOST
    if health.is_verdict(Signal.HOST_OFFLINE, limits.failures):
        return Degraded.HOST_OFFLINE
    if health.is_verdict(Signal.STOPPED, limits.failures):
        return Degraded.STOPPED_OUTSIDE
    if health.signal is Signal.RUNS_SILENT and s.waited(health.since, limits.unreachable_seconds):
        return Degraded.UNREACHABLE
    return Degraded.NONE


def _degraded(s: Scene) -> Act:
    if s.incident is not None:
        return _suspended(s, s.incident)
    if (begun := _beginning(s)) is not None:
        return begun
    if (without := _without_workload(s)) is not None:
        return without
    pool, primary = s.pool, s.primary
    if primary is None:
        return Seek() if pool.seeks and s.may_try else until_try(s)
    if (taken_up := _taken_up(s, primary)) is not None:
        return taken_up
    if (moved := _moved(s)) is not None:
        return moved
    trouble = _primary_trouble(s)
    if trouble is Degraded.NONE and primary.state is LeaseState.ACTIVE:
        if (mended := _standby_again(s)) is not None:
            return mended
        trouble = s.trouble
        if trouble is Degraded.NONE:
            return Change(event=PoolEvent.STANDBY_READY, reason="a standby can take over again", pool=calm(pool))
    return _told(s, trouble or pool.degraded)


def _without_workload(s: Scene) -> Act | None:
    """Stop a primary whose script did not get the lock, because it runs nothing, until somebody asks for a failover.

    Also stop all machines of a pool that a spending limit does not allow, until it is provisioned again.
    """
    if s.pool.degraded not in (Degraded.LOCK_HELD, Degraded.OVER_BUDGET):
        return None
    machines = (s.primary, s.standby) if s.pool.degraded is Degraded.OVER_BUDGET else (s.primary,)
    rented = [each for each in machines if each is not None and each.state in RENTED]
    if s.primary not in rented:
        return None
    if all(each.state is LeaseState.PARKED and s.is_proven_at_rest(each.id) for each in rented):
        return Rest(s.limits.check_seconds)
    return Fence(tuple(rented))


def _taken_up(s: Scene, primary: Lease) -> Act | None:
    """Go on with what provisioning had to leave: a create without an answer, an offline host, GPUs that were taken."""
    pool = s.pool
    if primary.state is LeaseState.ACTIVE and not pool.founded:
        return _founded(s)
    if primary.state is LeaseState.STARTING and not pool.founded:
        return _booting(s, primary)
    gone = primary.state in TERMINAL
    is_stopped = primary.state is LeaseState.PARKED and primary.pending.stop_at is not None
    was_offline = pool.degraded is Degraded.HOST_OFFLINE and (gone or is_stopped)
    fits = is_stopped and primary.observed.price <= primary.creation.ceiling
    has_room = pool.degraded is Degraded.START_FAILED and fits and s.free_since_try
    was_left = gone and (pool.degraded is Degraded.UNKNOWN_OUTCOME or not pool.founded)
    if s.volume_lost or not (was_offline or has_room or was_left):
        return None
    if any(is_offline(each) for each in (primary, *s.writers())):
        return None
    if not s.may_try:
        return until_try(s)
    again = replace(calm(pool), tries=pool.tries, step_began_at=s.now, progress="going on")
    return unfit(s, primary) or Change(event=PoolEvent.PROVISION, reason="provisioning goes on", pool=again)


def _standby_again(s: Scene) -> Act | None:
    """Make a new standby where one is missing, one try at a time."""
    pool, standby = s.pool, s.standby
    if pool.mode == "recreate":
        return None
    if standby is None or standby.state in TERMINAL or standby.state is LeaseState.RELEASING:
        return unfit(s, standby) or (RentMachine("standby") if s.may_try else None)
    if standby.state is LeaseState.STARTING and s.waited(standby.started_at, s.limits.ready_seconds):
        return _booting(s, standby)
    return None


def _moved(s: Scene) -> Change | None:
    """Go to another host, if the owner wants that and the primary's host has been offline for long enough."""
    gone = _primary_trouble(s) is Degraded.HOST_OFFLINE and s.waited(s.health.since, s.limits.unreachable_seconds)
    return elsewhere(s, "the host is offline") if gone else None


def _suspended(s: Scene, incident: Incident) -> Act:
    """A failover that could not go on. It ends if the primary is healthy or the pool moves to another host.

    It goes on once the primary is proven not to run, or at once if somebody asks for a failover.
    """
    primary = s.primary
    if s.pool.asked:
        return _resumed(s, incident, "a failover was asked for")
    if primary is not None and primary.state is LeaseState.ACTIVE and s.health.is_verdict(Signal.HEALTHY, 2):
        ended = replace(incident, ended_at=s.now, outcome="recovered", reason="the primary is healthy again")
        pool, runs_on = replace(s.pool, step_began_at=s.now), ((primary.id, StopDue(None)),)
        return Change(reason="the primary is healthy again", incident=ended, pool=pool, facts=runs_on)
    if primary is not None and primary.state is LeaseState.LOST and primary.id not in s.gone:
        return ConfirmGone(primary)
    stopped = any(s.health.is_verdict(each, s.limits.failures) for each in (Signal.LOST, Signal.STOPPED))
    now = s.may_try or (s.free_since_try and s.pool.degraded is Degraded.START_FAILED)
    if (stopped or primary is None or primary.state in TERMINAL) and now:
        return _resumed(s, incident, "the failover goes on")
    return _moved(s) or _told(s, _primary_trouble(s) or s.pool.degraded)


def _resumed(s: Scene, incident: Incident, why: str) -> Change:
    pool = _to_be_looked_at(replace(s.pool, asked="", unfenced=False, step_began_at=s.now, next_try_at=None))
    again = replace(incident, rung=0, successor=None, fenced_at=None, stop_sent_at=None)
    if incident.kind in ("test", "drill"):  # it may have stopped the primary already, so now it is a failover
        again = replace(again, kind="failure")
    if s.pool.asked:
        again = replace(
            again, kind=s.pool.asked, asked_by=s.pool.asked_by, unfenced=incident.unfenced or s.pool.unfenced
        )
    return Change(event=PoolEvent.PRIMARY_LOST, reason=why, pool=pool, incident=again)


def _told(s: Scene, trouble: Degraded) -> Act:
    """Store a new reason; otherwise wait."""
    left = s.pool.degraded is Degraded.HOST_OFFLINE and s.primary is not None and s.primary.pending.stop_at is not None
    unstarted = trouble is Degraded.STOPPED_OUTSIDE and (left or s.pool.degraded is Degraded.START_FAILED)
    if trouble is s.pool.degraded or unstarted:  # a primary that could not be started was not stopped by somebody else
        return Rest(s.limits.check_seconds)
    return Change(reason=trouble.sentence, pool=replace(s.pool, degraded=trouble, error=trouble.sentence))


# ------------------------------------------------------------------------------------------------------------- parts


def _excluded(s: Scene, writers: tuple[Lease, ...]) -> Act:
    """Prove that these machines do not write to the volume. There is a time limit for those on an offline host."""
    since = (s.pool.step_began_at, s.seen_from, None if s.primary is None else s.primary.ended_at)
    waited = all(s.waited(each, s.limits.fence_seconds) for each in since if each is not None)
    if not waited or not any(is_offline(each) for each in writers):
        return exclusion(writers)
    offline = Degraded.HOST_OFFLINE
    return _failed(s, offline if s.pool.founded else Degraded.PROVISION_FAILED, offline.sentence)
