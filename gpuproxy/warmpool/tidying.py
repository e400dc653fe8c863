"""What a pool does in nearly every state: release what it does not need. Pure."""

from dataclasses import replace

from gpuproxy.model.leases import TERMINAL, Lease, LeaseId, LeaseState
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.scene import Act, Change, Scene


def releasable(lease: Lease) -> bool:
    """Whether the lease may still be paid for, and its release was not asked for."""
    return lease.state not in TERMINAL and lease.state is not LeaseState.RELEASING


def unsent(s: Scene) -> tuple[LeaseId, ...]:
    """Creates that were not sent. Nobody will: who wrote the intent of one is gone, or has lost its claim."""
    rows = s.leases.values()
    return tuple(
        each.id for each in rows if each.state is LeaseState.REQUESTED and each.creation.call_started_at is None
    )


def tidied(s: Scene) -> Act | None:
    """Release what the pool does not need, and give up creates that were never sent."""
    pool, incident = s.pool, s.incident
    needed = {pool.primary, pool.standby, pool.failed, incident.successor if incident else None}
    facts: list[tuple[LeaseId, Reason]] = [
        (each.id, Reason.POOL_CHANGED) for each in s.machines if each.id not in needed and releasable(each)
    ]
    if pool.failed is not None and pool.failed_until is not None and pool.failed_until <= s.now:
        failed = s.lease(pool.failed)
        if failed is not None and releasable(failed):
            facts.append((failed.id, Reason.POOL_CHANGED))
        return Change(
            reason="the failed primary was kept long enough",
            pool=replace(pool, failed=None, failed_until=None),
            releases=tuple(facts),
        )
    given_up = unsent(s)
    if facts or given_up:
        return Change(reason="the pool does not need this any more", releases=tuple(facts), unsent=given_up)
    return None
