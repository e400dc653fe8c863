"""What a pool will hold, checked before anything of it is rented, so that none of it is rented in vain."""

from dataclasses import replace
from datetime import timedelta

from gpuproxy.model.leases import TERMINAL, Lease, LeaseId, LeaseState
from gpuproxy.model.limits import Hold
from gpuproxy.model.money import accrued
from gpuproxy.model.pool_calls import PoolPlan
from gpuproxy.model.pools import Pool
from gpuproxy.outcomes import spending
from gpuproxy.ports import Tx
from gpuproxy.store import leases, limits, reservations


def check(tx: Tx, pool: Pool, plan: PoolPlan, horizon: timedelta, *, kept: bool) -> None:
    """Raise BudgetExceeded, or the error of a quota, if a pool that is provisioned now could not become active.

    `kept`: what stands of the pool stays, and only what is missing or stopped needs money. Nothing is written. Without
    a price nothing is checked here: each part is checked when it is rented.
    """
    if plan.primary_price is None:
        return
    volume, primary, standby = (_standing(tx, each) if kept else None for each in _parts(pool))
    now, whose = tx.now(), (pool.project, _paying_key(tx, pool))
    needs: list[Hold] = []
    if volume is None and plan.volume_price is not None:
        needs.append(limits.needed("volume", whose, plan.volume_price, now, now + spending.VOLUME_HORIZON))
    if primary is None:
        need = limits.needed("primary", whose, plan.primary_price, now, now + horizon, gpus=plan.spec.num_gpus)
        needs.append(replace(need, extra=accrued(plan.primary_price, spending.FAILOVER)))
    elif primary.state is LeaseState.PARKED:
        until = spending.until_of(primary, now, horizon)
        needs.append(limits.wanted(tx, primary, until, extra=spending.failover_of(primary)))
    if standby is None and plan.mode != "recreate":  # it costs its whole price until it is proven stopped
        needs.append(limits.needed("standby", whose, plan.primary_price, now, now + horizon, gpus=plan.spec.num_gpus))
    limits.check(tx, needs)


def _paying_key(tx: Tx, pool: Pool) -> str:
    """The key whose limits count what the pool rents: that of its ledger, or the caller's, who makes the ledger."""
    ledger = reservations.find(tx, pool.ledger) if pool.ledger else None
    return pool.key_id if ledger is None else ledger.key_id


def _parts(pool: Pool) -> tuple[LeaseId | None, LeaseId | None, LeaseId | None]:
    return pool.volume, pool.primary, pool.standby


def _standing(tx: Tx, lease_id: LeaseId | None) -> Lease | None:
    lease = None if lease_id is None else leases.find(tx, lease_id)
    gone = lease is None or lease.state in TERMINAL or lease.state is LeaseState.RELEASING
    return None if gone else lease
