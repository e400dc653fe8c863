"""What acts store, each in one unit of work: decisions, failed tries, stops, and starts before and after an answer."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import structlog

from gpuproxy.model.errors import Conflict
from gpuproxy.model.lease_facts import BootsAgain, StopDue
from gpuproxy.model.leases import RENTED, LeaseId, ReservationId
from gpuproxy.model.pools import LateStart, Pool, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import conclusion, record, spending
from gpuproxy.ports import Tx
from gpuproxy.reconcile.effects import STOP_AGAIN
from gpuproxy.store import leases, pools
from gpuproxy.warmpool.renting import Tried
from gpuproxy.warmpool.scene import Change, Scene, Start

log = structlog.get_logger(__name__)

_UNDER_WAY = timedelta(seconds=180)
"""How long a start may be unanswered before the machine is stopped again: longer than any call."""
_VOLUME_AGAIN = 5.0
"""Seconds until another machine is tried with a volume that was in use."""


def change(tx: Tx, pool: Pool, act: Change, require: Callable[[Tx], None]) -> Pool:
    """Store a decision in one unit of work. Raises ClaimLost, and Conflict if the pool has changed since."""
    require(tx)
    if pools.get(tx, pool.id).version != pool.version:
        raise Conflict(f"pool {pool.id} changed while it was decided on")
    for lease_id in act.unsent:
        record.not_attempted(tx, lease_id, Reason.INTERRUPTED)
    for lease_id, reason in act.releases:
        record.release(tx, leases.get(tx, lease_id), reason)
    for lease_id, fact in act.facts:
        lease = leases.get(tx, lease_id)
        if lease.state in RENTED:
            leases.note(tx, lease, fact)
    if act.incident is not None:
        incident = act.incident
        if act.opens:
            pools.insert_incident(tx, replace(incident, number=pools.next_number(tx, pool.id)))
        else:
            pools.save_incident(tx, incident)
    new = act.pool or pool
    if new.wanted == "disabled" and pool.wanted == "gone":
        new = _ended(tx, new)
    if act.event is not None:
        tx.after_commit(
            lambda: log.info(
                "pool_changed", pool=pool.id, machine=pool.machine_id, event_name=act.event, why=act.reason
            )
        )
        return pools.advance(tx, pool, act.event, act.reason, new)
    return pools.save(tx, pool, new)


def _ended(tx: Tx, pool: Pool) -> Pool:
    """Close the pool's ledger, unless a volume that is kept is still in it."""
    if not pools.machines(tx, pool):
        conclusion.close(tx, pool.ledger, Reason.RELEASED)
        return replace(pool, ledger=ReservationId(""))
    return pool


def note_try(tx: Tx, scene: Scene, tried: Tried, require: Callable[[Tx], None]) -> None:
    """Record that nothing could be rented, and when it is tried again."""
    require(tx)
    pool = pools.get(tx, scene.pool.id)
    if tried.unshared and pool.spec.mode == "" and pool.mode == "shared":
        pools.save(tx, pool, replace(pool, mode="recreate", mode_why=tried.why, standby=None, tries=0, looked_at=None))
        return
    if tried.unshared and pool.state is PoolState.FAILOVER:  # the volume is not free yet; a time limit ends the wait
        later = tx.now() + timedelta(seconds=_VOLUME_AGAIN)
        pools.save(tx, pool, replace(pool, next_try_at=later, error=tried.why, progress="waiting for the volume"))
        return
    tries = pool.tries + 1
    wait = 0.0 if tried.offer is not None else scene.limits.wait_after(tries)
    if pool.state is PoolState.FAILOVER:
        wait = min(wait, 5.0)
    later = tx.now() + timedelta(seconds=wait)
    degraded = tried.degraded if pool.state in (PoolState.DEGRADED, PoolState.PROVISIONING) else pool.degraded
    pools.save(tx, pool, replace(pool, tries=tries, next_try_at=later, error=tried.why, degraded=degraded))


def stop_committed(tx: Tx, scene: Scene, lease_id: LeaseId, require: Callable[[Tx], None]) -> None:
    """Record that a stop is about to be sent."""
    require(tx)
    lease = leases.get(tx, lease_id)
    if lease.state in RENTED:
        leases.note(tx, lease, StopDue(tx.now() + STOP_AGAIN))
    incident = pools.open_incident(tx, scene.pool.id)
    if incident is not None and incident.stop_sent_at is None:
        pools.save_incident(tx, replace(incident, stop_sent_at=tx.now()))


def start_committed(
    tx: Tx, scene: Scene, act: Start, late: LateStart, *, require: Callable[[Tx], None], horizon: timedelta
) -> None:
    """Record that a start is about to be sent. Until it is accepted, the machine is still one that is to be stopped."""
    require(tx)
    tx.before_spending()
    pool = pools.get(tx, scene.pool.id)
    if pool.version != scene.pool.version:
        raise Conflict(f"pool {pool.id} changed while a start was decided")
    lease = leases.get(tx, act.lease.id)
    if lease.state not in RENTED:
        raise Conflict(f"machine {lease.instance_id} can't be started: {lease.state}")
    if act.role == "successor":
        old = None if pool.primary is None else leases.find(tx, pool.primary)
        spending.admit_takeover(tx, old, lease, horizon)
    else:
        spending.admit_start(tx, lease, horizon)
    stop_at = tx.now() + _UNDER_WAY
    lease = leases.note(tx, lease, StopDue(stop_at))
    leases.note(tx, lease, BootsAgain())
    open_ones = tuple(each for each in pool.late_starts if each[1] > tx.now())
    new = replace(pool, late_starts=(*open_ones, late), unanswered=(lease.id, stop_at))
    pool = pools.save(tx, pool, new if act.role == "successor" else replace(new, step_began_at=tx.now()))
    if act.role == "successor":
        incident = pools.open_incident(tx, pool.id)
        if incident is None:
            raise Conflict(f"pool {pool.id} has no incident")
        pools.save_incident(tx, replace(incident, successor=lease.id, start_sent_at=tx.now(), running_at=None))
        pools.save(tx, pool, replace(pool, progress=f"starting machine {lease.instance_id}", step_began_at=tx.now()))


def start_unknown(tx: Tx, scene: Scene, act: Start, require: Callable[[Tx], None]) -> None:
    """The start may have been carried out, or will be. It is repeated soon if no listing shows the machine boot."""
    require(tx)
    pool = pools.get(tx, scene.pool.id)
    new = replace(pool, tries=pool.tries + 1, error=f"the start of machine {act.lease.instance_id} was not answered")
    if act.role == "primary":
        new = replace(new, next_try_at=tx.now() + timedelta(seconds=scene.limits.retry_seconds))
    pools.save(tx, pool, new)


def _answered(pool: Pool, late: LateStart) -> Pool:
    """The pool without a start whose answer is known. Others of the same machine stay."""
    return replace(pool, late_starts=tuple(each for each in pool.late_starts if each != late), unanswered=None)


def start_withdrawn(
    tx: Tx, scene: Scene, act: Start, late: LateStart, why: str, *, require: Callable[[Tx], None]
) -> None:
    """The machine must stay stopped. The proof that it is follows before anything else is started.

    Done twice, after a commit without an answer, it counts once.
    """
    require(tx)
    lease, pool = leases.get(tx, act.lease.id), pools.get(tx, scene.pool.id)
    if lease.state in RENTED:
        lease = leases.note(tx, lease, StopDue(tx.now()))
        if act.role == "successor":
            old = None if pool.primary is None else leases.find(tx, pool.primary)
            spending.takeover_failed(tx, old, lease)
    pool = pools.save(tx, pool, _answered(pool, late))
    if act.role == "successor":
        incident = pools.open_incident(tx, pool.id)
        if incident is not None:
            rung = 1 + (scene.incident or incident).rung
            again = replace(incident, successor=None, start_sent_at=None, rung=rung, reason=why)
            pools.save_incident(tx, again)
        pools.save(tx, pool, replace(pool, error=why, tries=0, next_try_at=None, step_began_at=tx.now()))
        return
    later = tx.now() + timedelta(seconds=scene.limits.retry_seconds)
    pools.save(tx, pool, replace(pool, error=why, tries=scene.pool.tries + 1, next_try_at=later))


def may_run(tx: Tx, scene: Scene, act: Start, late: LateStart, require: Callable[[Tx], None]) -> None:
    """The start was accepted. It is not sent again before a listing could show the machine boot."""
    require(tx)
    lease = leases.get(tx, act.lease.id)
    if lease.state in RENTED:
        leases.note(tx, lease, StopDue(None))
    pool = pools.get(tx, scene.pool.id)
    new = _answered(pool, late)
    if act.role == "primary":
        new = replace(new, next_try_at=tx.now() + timedelta(seconds=scene.limits.retry_seconds))
    pools.save(tx, pool, new)
