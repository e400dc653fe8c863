"""What the calls for single machines and reservations must leave alone, because it belongs to a warm pool.

The supervisor of a pool alone starts and stops its machines: a machine that somebody else started could write to the
volume beside the primary. A pool that is disabled has no supervisor and no standby. Its primary may then be stopped and
destroyed like any other machine.
"""

from typing import Literal

from gpuproxy.model.errors import FailedPrecondition, Refusal
from gpuproxy.model.leases import Lease
from gpuproxy.model.pools import Pool, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation
from gpuproxy.ports import Tx
from gpuproxy.store import pools, reservations

Action = Literal["start", "stop", "destroy"]
_DONE = {"start": "started", "stop": "stopped", "destroy": "destroyed"}
_WHILE_DISABLED: frozenset[Action] = frozenset({"stop", "destroy"})


def require_direct(tx: Tx, lease: Lease, action: Action) -> None:
    """Raise FailedPrecondition (IN_WARM_POOL) if only the calls of a warm pool may do this with the machine."""
    owner = reservations.find(tx, lease.reservation_id)
    if owner is None or owner.kind != "pool":
        return
    pool = pools.of_ledger(tx, owner.id)
    if pool is None or not _allows(pool, lease, action):
        raise _refusal(lease, pool, action)


def was_started(tx: Tx, lease: Lease) -> bool:
    """Whether a machine that a listing shows running is to be stopped only because its pool's start had no answer.

    Then the start was carried out, and the machine goes on, if the pool still wants it and its price is not too high.
    """
    pool = pools.of_ledger(tx, lease.reservation_id)
    if pool is None or pool.wanted == "gone" or pool.unanswered != (lease.id, lease.pending.stop_at):
        return False
    incident = pools.open_incident(tx, pool.id)
    wanted = lease.id in (pool.primary, incident.successor if incident is not None else None)
    return wanted and lease.observed.price <= lease.creation.ceiling


def require_no_pool(reservation: Reservation) -> None:
    """Raise FailedPrecondition (IN_WARM_POOL) for a reservation that has the machines of a warm pool."""
    if reservation.kind == "pool":
        raise FailedPrecondition(
            f"Reservation {reservation.id} has the machines of a warm pool. DisableWarmPool ends its supervision, and "
            "CleanupWarmPool releases everything.",
            reason=Reason.IN_WARM_POOL,
            metadata={"reservation_id": reservation.id},
        )


def _allows(pool: Pool, lease: Lease, action: Action) -> bool:
    at_rest = pool.state is PoolState.DISABLED and pool.wanted == "disabled"
    return at_rest and lease.id == pool.primary and action in _WHILE_DISABLED


def _refusal(lease: Lease, pool: Pool | None, action: Action) -> Refusal:
    what = "Volume" if lease.kind == "volume" else "Machine"
    of = f" of machine_id {pool.machine_id} ({pool.state})" if pool is not None else ""
    return FailedPrecondition(
        f"{what} {lease.instance_id} belongs to the warm pool{of} and can't be {_DONE[action]} by itself. "
        f"{_instead(pool, lease, action)}",
        reason=Reason.IN_WARM_POOL,
        metadata={"machine_id": str(pool.machine_id), "state": pool.state.value} if pool is not None else {},
    )


def _instead(pool: Pool | None, lease: Lease, action: Action) -> str:
    if lease.kind == "volume":
        return "CleanupWarmPool deletes the pool's volumes, and DeleteRetainedVolume one that it no longer uses."
    if action == "start":
        return "EnableWarmPool and ProvisionWarmPool start it."
    if pool is not None and lease.id == pool.primary:
        return "Call DisableWarmPool first; CleanupWarmPool releases everything."
    return "CleanupWarmPool releases everything."
