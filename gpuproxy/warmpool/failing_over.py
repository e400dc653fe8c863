"""A failover: fence, start, wait until the successor answers, promote. Pure.

The rule: before anything is started that mounts the volume, every other machine of the pool that could be running with
it is proven at rest or gone. Only `unfenced`, which an operator sets for one failover, skips that proof.

The ladder: the standby; a new machine on another chunk of the host; the old primary again. Each rung begins only after
the machine of the rung before is proven at rest or gone. In the mode `recreate` there is no standby, and the old
primary is destroyed before the new machine, because the marketplace gives the volume to one machine at a time. Before
that, the host's free GPUs are looked at once more.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from gpuproxy.model.lease_facts import Fact, KeepGpus, StopDue
from gpuproxy.model.leases import RENTED, TERMINAL, UNRESOLVED, Lease, LeaseId, LeaseState
from gpuproxy.model.pools import NO_HOST, Degraded, Incident, Pool, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.excluding import exclusion, why_unproven
from gpuproxy.warmpool.scene import MISSES, Act, Change, Fence, RentMachine, Rest, Scene, Start
from gpuproxy.warmpool.signals import Signal

STANDBY, NEW_MACHINE, OLD_PRIMARY, NO_MORE = 0, 1, 2, 3
"""The rungs of the ladder."""
_SOON = 0.5
_UNFENCED_AFTER = 15.0
"""Seconds for which an unfenced failover still tries to stop the old primary."""
_TRIES = 3
"""Failed tries to rent a new machine. After that, the next rung begins."""
_UNANSWERED = 15.0
"""Seconds after which a start without an answer is sent again."""
_STARTS = 8
"""Starts in a row without an answer. Then the next rung begins, once none of them can be carried out any more."""
_LOOK_SECONDS = 15.0
"""For so long the mode `recreate` waits for a look at the host's free GPUs."""
_SWAPS = frozenset({"test", "drill"})
_NOT_FREE = "the host has no free GPUs for another machine"
_NOT_SEEN = "nobody could look whether the host has free GPUs for another machine"


def failing_over(s: Scene) -> Act:
    """The next act of the open incident."""
    incident = s.incident
    if incident is None:  # it ended, and the process ended before the pool followed
        return Change(event=PoolEvent.FAILED, reason="the failover was interrupted", pool=_failed(s, s.pool.degraded))
    successor = s.lease(incident.successor)
    if successor is not None and successor.state is LeaseState.ACTIVE:
        return _promoted(s, incident, successor)
    if successor is not None and successor.state not in TERMINAL:
        return _following(s, incident, successor)
    if successor is not None and successor.instance_id is None and s.pool.tries < _TRIES:
        return Change(reason="nothing was rented", incident=replace(incident, successor=None, start_sent_at=None))
    if successor is not None:
        return _next_rung(s, incident, f"machine {successor.instance_id or successor.label} is gone")
    if (act := _looked_first(s, incident) or _fence(s, incident)) is not None:
        return act
    if incident.fenced_at is None:
        fenced = replace(incident, fenced_at=s.now)
        return Change(
            reason="the old primary is proven stopped", incident=fenced, pool=_at(s, "starting the successor")
        )
    return _rung(s, incident)


def _looked_first(s: Scene, incident: Incident) -> Act | None:
    """A test in the mode `recreate` destroys a primary that works: nothing is stopped before GPUs were seen free."""
    pool = s.pool
    if pool.mode != "recreate" or incident.kind not in _SWAPS or incident.stop_sent_at is not None:
        return None
    if pool.looked_at is None and not s.waited(incident.began_at, _LOOK_SECONDS):
        return Rest(_SOON)
    if pool.looked_at is not None and not pool.misses:
        return None
    unseen = pool.looked_at is None
    why = f"{_NOT_SEEN if unseen else _NOT_FREE}; the primary was not stopped"
    failed = _failed(s, Degraded.UNCHECKED if unseen else Degraded.NO_FREE_GPU)
    return Change(
        event=PoolEvent.FAILED,
        reason=why,
        pool=failed if unseen else replace(failed, misses=MISSES),
        incident=replace(incident, ended_at=s.now, outcome="failed", reason=why),
    )


def _fence(s: Scene, incident: Incident) -> Act | None:
    """What is still needed to exclude every other writer; None: nothing."""
    writers = s.writers(but=_to_be_started_again(s, incident))
    if not writers:
        return None
    if incident.unfenced and s.waited(incident.stop_sent_at or s.pool.step_began_at, _UNFENCED_AFTER):
        return None
    if s.waited(s.pool.step_began_at, s.limits.fence_seconds):
        return _given_up(s, incident, writers)
    return exclusion(writers)


def _given_up(s: Scene, incident: Incident, writers: tuple[Lease, ...]) -> Change:
    """The proof takes too long. The incident stays open, and the primary may come back."""
    degraded = Degraded.HOST_OFFLINE if s.health.signal is Signal.HOST_OFFLINE else why_unproven(writers)
    facts: tuple[tuple[LeaseId, Fact], ...] = tuple(
        (each.id, StopDue(None)) for each in writers if each.id == s.pool.primary and each.state in RENTED
    )
    pool = _failed(s, degraded)
    if (primary := s.primary) is None or primary.state in TERMINAL:  # then nothing is seen that says when to go on
        pool = replace(pool, next_try_at=_later(s, incident))
    return Change(
        event=PoolEvent.FAILED,
        reason=degraded.sentence,
        pool=pool,
        incident=replace(incident, rung=STANDBY, successor=None),
        facts=facts,
    )


def _rung(s: Scene, incident: Incident) -> Act:
    """The act of the present rung, or the next rung if this one has nothing to offer."""
    if (next_one := _next_to_start(s, incident)) is not None:
        return Start(next_one, "successor")
    old = s.lease(incident.primary)
    if incident.rung == STANDBY:
        return _next_rung(s, incident, "there is no standby")
    if incident.rung == NEW_MACHINE and incident.kind not in _SWAPS:
        return _new_machine(s, incident, old)
    if incident.rung == NEW_MACHINE and s.pool.mode == "recreate":
        return _new_machine(s, incident, old)
    if incident.rung < NO_MORE:
        return _next_rung(s, incident, "this rung has no machine")
    return _ended_in_vain(s, incident)


def _to_be_started_again(s: Scene, incident: Incident) -> LeaseId | None:
    """The machine of this rung, if a start of it has no answer: starting it once more does no harm."""
    next_one = _next_to_start(s, incident)
    late = {lease_id for lease_id, _ in s.pool.late_starts}
    return next_one.id if next_one is not None and next_one.id in late else None


def _next_to_start(s: Scene, incident: Incident) -> Lease | None:
    """The stopped machine that the present rung starts; None if it has none."""
    found = {STANDBY: s.standby, OLD_PRIMARY: s.lease(incident.primary)}.get(incident.rung)
    return found if found is not None and found.state is LeaseState.PARKED else None


def _new_machine(s: Scene, incident: Incident, old: Lease | None) -> Act:
    if s.pool.tries >= _TRIES or s.waited(s.pool.step_began_at, s.limits.create_seconds):
        return _next_rung(s, incident, s.pool.error)
    if s.pool.mode == "recreate" and old is not None and old.state not in TERMINAL:
        unseen = s.pool.looked_at is None
        if unseen and not s.waited(incident.fenced_at, _LOOK_SECONDS):
            return Rest(_SOON)
        if unseen or s.pool.misses:
            return _next_rung(s, incident, _NOT_SEEN if unseen else _NOT_FREE)
        if old.state is LeaseState.RELEASING:
            return Rest(_SOON)
        return Change(
            reason="the volume is needed for another machine",
            releases=((old.id, Reason.POOL_CHANGED),),
            pool=_at(s, "destroying the old primary"),
        )
    return RentMachine("successor") if s.may_try else Rest(_SOON)


def _following(s: Scene, incident: Incident, successor: Lease) -> Act:
    """Wait for the successor, up to its time limit. Then it is stopped or released, and the next rung begins."""
    if successor.state in UNRESOLVED:
        if s.waited(successor.created_at, s.limits.create_seconds):
            return _next_rung(s, incident, "the outcome of a create is unknown", release=successor)
        return Rest(_SOON)
    if incident.running_at is None and successor.observed.billed == "all":
        running = replace(incident, running_at=s.now)
        return Change(reason="the successor runs", incident=running, pool=_at(s, "waiting for the successor to answer"))
    unsent = successor.state is LeaseState.PARKED and successor.pending.stop_at is not None
    if unsent and s.waited(incident.start_sent_at, _UNANSWERED) and s.pool.tries < _STARTS:
        others = tuple(each for each in s.writers(but=successor.id) if each.state in RENTED)
        return Fence(others) if others else Start(successor, "successor")
    limit = s.limits.start_seconds if incident.rung != NEW_MACHINE else s.limits.ready_seconds
    if s.waited(incident.start_sent_at, limit):
        return _next_rung(s, incident, f"machine {successor.instance_id} did not answer in time")
    return Rest(_SOON)


def _next_rung(s: Scene, incident: Incident, why: str, release: Lease | None = None) -> Change:
    """Go on with the next rung. The machine of this one is to be stopped; the proof follows before anything starts."""
    successor = s.lease(incident.successor)
    facts: list[tuple[LeaseId, Fact]] = []
    if successor is not None and successor.state in RENTED:
        facts.append((successor.id, StopDue(s.now)))
    again = replace(incident, rung=incident.rung + 1, successor=None, start_sent_at=None, running_at=None, reason=why)
    return Change(
        reason=why,
        incident=again,
        pool=replace(s.pool, tries=0, next_try_at=None, step_began_at=s.now, error=why),
        facts=tuple(facts),
        releases=((release.id, Reason.POOL_CHANGED),) if release is not None else (),
    )


def _promoted(s: Scene, incident: Incident, successor: Lease) -> Change:
    """The successor is the primary now, in one transaction with everything that follows from it."""
    old = s.lease(incident.primary)
    ended = replace(
        incident,
        running_at=incident.running_at or s.now,
        reachable_at=incident.reachable_at or s.now,
        ended_at=s.now,
        outcome="promoted",
        reason=incident.reason,
    )
    pool = replace(s.pool, progress="", error="", tries=0, next_try_at=None, step_began_at=s.now)
    facts: list[tuple[LeaseId, Fact]] = [(successor.id, KeepGpus(keep=False)), (successor.id, StopDue(None))]
    if old is not None and successor.id == old.id:
        return _restarted(s, ended, pool, tuple(facts))
    pool = replace(
        pool,
        primary=successor.id,
        standby=None if successor.id == s.pool.standby else s.pool.standby,
        founded=True,
        data_state="same_volume",
        failover_count=pool.failover_count + 1,
        last_failover_at=s.now,
        detected_after_s=_seconds(incident.last_good_at, incident.began_at),
        recovery_s=_seconds(incident.began_at, s.now),
        outage_s=_seconds(incident.last_good_at, s.now),
    )
    lives = old is not None and old.state is LeaseState.PARKED
    if lives and old is not None and pool.standby is None and incident.kind in _SWAPS and pool.mode != "recreate":
        facts.append((old.id, KeepGpus(keep=True)))
        swapped = replace(pool, standby=old.id, degraded=Degraded.NONE, misses=0, looked_at=None, checked_at=None)
        return Change(
            event=PoolEvent.PROMOTED_WITH_STANDBY, reason="the roles are swapped", pool=swapped, incident=ended,
            facts=tuple(facts),
        )  # fmt: skip
    ended = replace(ended, reason=f"machine {successor.instance_id} has taken over")
    return _without_standby(s, ended, pool, old if lives else None, facts)


def _without_standby(
    s: Scene, ended: Incident, pool: Pool, old: Lease | None, facts: list[tuple[LeaseId, Fact]]
) -> Change:
    """After the loss of a primary: keep it stopped for a while, or give it back at once."""
    releases: list[tuple[LeaseId, Reason]] = []
    before = s.lease(pool.failed)
    if before is not None and before.state in RENTED:
        releases.append((before.id, Reason.POOL_CHANGED))
    pool = replace(pool, failed=None, failed_until=None)
    if old is not None and pool.spec.keep_failed > timedelta(0):
        pool = replace(pool, failed=old.id, failed_until=s.now + pool.spec.keep_failed)
        facts.append((old.id, KeepGpus(keep=False)))
    elif old is not None:
        releases.append((old.id, Reason.POOL_CHANGED))
    degraded = Degraded.NO_STANDBY if pool.mode != "recreate" else Degraded.UNCHECKED
    pool = replace(pool, degraded=degraded, error=degraded.sentence, looked_at=None, checked_at=None, misses=0)
    return Change(
        event=PoolEvent.PROMOTED, reason=ended.reason, pool=pool, incident=ended,
        facts=tuple(facts), releases=tuple(releases),
    )  # fmt: skip


def _restarted(s: Scene, ended: Incident, pool: Pool, facts: tuple[tuple[LeaseId, Fact], ...]) -> Change:
    """Nothing could take over, and the old primary runs again."""
    ended = replace(ended, outcome="failed", reason=f"{ended.reason}; the old primary was started again")
    pool = replace(
        pool, degraded=Degraded.START_FAILED, error=ended.reason, outage_s=_seconds(ended.last_good_at, s.now)
    )
    return Change(event=PoolEvent.FAILED, reason=ended.reason, pool=pool, incident=ended, facts=facts)


def elsewhere(s: Scene, why: str) -> Change | None:
    """Begin anew on another host, without data, if the owner wants that. What stands here is given back.

    The volume of this host is kept: nothing is deleted by itself.
    """
    if s.pool.spec.cross_host != "empty":
        return None
    pool = replace(
        _failed(s, Degraded.NO_HOST), host=NO_HOST, seeks=True, primary=None, standby=None, volume=None,
        failed=None, failed_until=None, founded=False, data_state="empty", checked_at=None, looked_at=None, misses=0,
    )  # fmt: skip
    incident = s.incident
    ended = None if incident is None else replace(incident, ended_at=s.now, outcome="failed", reason=why)
    event = PoolEvent.FAILED if s.pool.state is PoolState.FAILOVER else None
    return Change(event=event, reason=f"{why}; another host is searched", pool=pool, incident=ended)


def _ended_in_vain(s: Scene, incident: Incident) -> Change:
    """No rung is left. The incident stays open and is taken up again."""
    if incident.kind not in _SWAPS and (moved := elsewhere(s, incident.reason)) is not None:
        return moved
    pool = replace(_failed(s, Degraded.START_FAILED), error=incident.reason, next_try_at=_later(s, incident))
    again = replace(incident, rung=STANDBY, successor=None)
    if incident.kind in _SWAPS:
        again = replace(again, kind="failure")  # the primary does not run any more, so this is no test now
    return Change(event=PoolEvent.FAILED, reason=incident.reason, pool=pool, incident=again)


def _failed(s: Scene, degraded: Degraded) -> Pool:
    degraded = degraded if degraded is not Degraded.NONE else Degraded.START_FAILED
    return replace(s.pool, degraded=degraded, error=degraded.sentence, progress="", step_began_at=s.now)


def _later(s: Scene, incident: Incident) -> datetime:
    """When an open incident is taken up again: after half of the time that it has taken, within limits."""
    age = (s.now - incident.began_at).total_seconds()
    return s.now + timedelta(seconds=max(s.limits.retry_seconds, min(age / 2, s.limits.retry_most)))


def _at(s: Scene, progress: str) -> Pool:
    return replace(s.pool, progress=progress, step_began_at=s.now)


def _seconds(begin: datetime | None, end: datetime) -> float | None:
    return None if begin is None else max(0.0, (end - begin).total_seconds())
