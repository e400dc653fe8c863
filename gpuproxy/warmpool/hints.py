"""What the owner of a warm pool can do, by the reason for which it is degraded. docs/warm-pool.md has the table."""

from collections.abc import Mapping

from gpuproxy.model.leases import TERMINAL, LeaseState
from gpuproxy.model.pools import Degraded, PoolState, PoolView

SLOW_SECONDS = 60.0
"""A failover that took longer is slow."""
SLOW = (
    "The last failover took more than 60 s. Check the host's latency and its start times in `failovers`, "
    "or move the pool to a nearer host with ProvisionWarmPool."
)
HINTS: Mapping[Degraded, str] = {
    Degraded.NO_STANDBY: (
        "The standby may have been destroyed. The server makes a new one by itself as soon as the host has a free "
        "GPU; ProvisionWarmPool makes it try now, or moves the pool to another host."
    ),
    Degraded.NO_FREE_GPU: (
        "The standby's GPUs are rented by somebody else, so it could not start. The server looks again every "
        "minute. To be safe now, provision on a host with more GPUs (ListWarmPoolHosts with min_gpus 2 or more)."
    ),
    Degraded.UNCHECKED: (
        "The marketplace has not answered a search for 60 s, so nobody knows whether the standby could start. The "
        "server goes on trying; HealthCheck shows which marketplaces are silent."
    ),
    Degraded.HOST_OFFLINE: (
        "The marketplace does not reach the host. That proves nothing about the primary, so nothing takes over. If "
        "the host does not come back, provision the pool on another host."
    ),
    Degraded.UNREACHABLE: (
        "The marketplace says that the primary runs, but it does not answer. Look at its log (GetInstanceLogs) and "
        "at `health`. FailoverWarmPool replaces it if you want that."
    ),
    Degraded.STOPPED_OUTSIDE: (
        "The primary was stopped at the marketplace, not by this server, so nothing takes over. Start it there, or "
        "call FailoverWarmPool."
    ),
    Degraded.NOT_FENCED: (
        "Another machine of the pool, mostly the old primary, is not proven stopped, so nothing may write to the "
        "volume. The server goes on trying. "
        "FailoverWarmPool with allow_unfenced overrides the marketplace's word, but never the lock."
    ),
    Degraded.LOCK_HELD: (
        "Another machine holds the lock of the volume, so the new primary does not run its workload. Find the "
        "process that still runs there, or let the server destroy that machine."
    ),
    Degraded.VOLUME_LOST: (
        "The marketplace does not list the volume any more, so its data is lost. Save what the primary still has; then "
        "ProvisionWarmPool makes a new pool with an empty volume, and gives back what is left of this one."
    ),
    Degraded.WRONG_VOLUME: (
        "What is mounted is not this pool's volume, or the mount failed, so the workload was not started. Look at "
        "the log of the machine (GetInstanceLogs), then provision again."
    ),
    Degraded.NO_HOST: (
        "No host has two free GPUs and room for the volume at this price. Popular GPUs have a queue: look at "
        "ListWarmPoolHosts with min_gpus 2, raise max_price, or wait; the server goes on searching."
    ),
    Degraded.PROVISION_FAILED: (
        "Something could not be made. error_message says what. ProvisionWarmPool adds what is missing, or moves "
        "the pool to another host."
    ),
    Degraded.START_FAILED: (
        "No machine could take over. The server goes on trying on this host; ProvisionWarmPool moves the pool to "
        "another one, without its data."
    ),
    Degraded.CONTRACT_ENDS: (
        "The marketplace's contract ends within 72 h, and the machines with it. Copy the data, and provision the "
        "pool on another host."
    ),
    Degraded.LOW_CREDIT: ("The account's credit is enough for less than 24 h. Add credit at the marketplace."),
    Degraded.SECRETS_UNAVAILABLE: (
        "The key of the stored secrets is missing, so no new machine can be made. Put the file of "
        "GPUPROXY_SECRETS_KEY_FILE back, or provision again with the secrets."
    ),
    Degraded.OVER_BUDGET: (
        "A spending limit does not allow the pool to run on, so its machines were stopped. They and the volume are "
        "kept, and their storage is billed. Once the limit allows it, ProvisionWarmPool starts the primary again."
    ),
    Degraded.UNKNOWN_OUTCOME: (
        "A call to the marketplace was not answered, and a machine may exist. The server finds out before it "
        "starts another one."
    ),
}


NO_PRIMARY = (
    "The pool has no primary that runs, and none is made or started by itself. ProvisionWarmPool tries again, or moves "
    "the pool to another host, without its data."
)
_SAY_SO = frozenset({
    Degraded.PROVISION_FAILED, Degraded.VOLUME_LOST, Degraded.OVER_BUDGET, Degraded.SECRETS_UNAVAILABLE,
    Degraded.WRONG_VOLUME, Degraded.LOW_CREDIT, Degraded.CONTRACT_ENDS,
})  # fmt: skip
"""Their own lines say what to do first."""
_GO_ON = frozenset({Degraded.HOST_OFFLINE, Degraded.UNKNOWN_OUTCOME})
"""With these, the primary is made again once the marketplace answers."""


def hint(view: PoolView) -> str:
    """What the owner of a degraded pool can do; "" without a known reason."""
    return NO_PRIMARY if _waits_for_its_owner(view) else HINTS.get(view.pool.degraded, "")


def _waits_for_its_owner(view: PoolView) -> bool:
    """Whether the pool has no primary, nothing makes one, and the reason's own line does not say so."""
    pool, primary = view.pool, view.primary
    if view.incident is not None or pool.degraded in _SAY_SO:
        return False
    if primary is None:
        return not pool.seeks
    if primary.state is LeaseState.PARKED:
        is_tried = primary.pending.stop_at is not None and primary.observed.price <= primary.creation.ceiling
        return pool.degraded is Degraded.START_FAILED and not is_tried
    return primary.state in TERMINAL and pool.founded and pool.degraded not in _GO_ON


def hints(view: PoolView) -> list[str]:
    """The lines for this pool."""
    pool = view.pool
    found = []
    if pool.state is PoolState.DEGRADED and (line := hint(view)):
        found.append(line)
    if pool.recovery_s is not None and pool.recovery_s > SLOW_SECONDS:
        found.append(SLOW)
    return found
