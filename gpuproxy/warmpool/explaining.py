"""What a pool does next, and what its owner can do, in sentences for people. Pure."""

from typing import Literal

from gpuproxy.model.leases import RENTED
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import Degraded, PoolState, PoolView

_WAITS: dict[Degraded, str] = {
    Degraded.NO_STANDBY: "The server makes a new standby as soon as the host has free GPUs.",
    Degraded.NO_FREE_GPU: "The server looks again every minute. To be safe now, provision on another host "
    "(`warmpool hosts`); the volume of this one is kept and listed.",
    Degraded.UNCHECKED: "The server looks again as soon as the marketplace answers.",
    Degraded.HOST_OFFLINE: "The server waits for the host. If it is gone for good, provision on another host; the "
    "volume is kept and listed.",
    Degraded.UNREACHABLE: "Check the primary's network and what runs on it. If it is broken, call failover.",
    Degraded.STOPPED_OUTSIDE: "Start the primary at the marketplace, call failover, or clean up.",
    Degraded.NOT_FENCED: "The server goes on as soon as the old primary is proven stopped. If you know that it does "
    "not write, call failover with allow_unfenced.",
    Degraded.LOCK_HELD: "Find the machine that holds the lock of the volume, and stop it.",
    Degraded.WRONG_VOLUME: "The volume was replaced or not mounted. Clean up, and provision again.",
    Degraded.NO_HOST: "The server searches again. A higher max_price or another gpu_name finds more hosts.",
    Degraded.PROVISION_FAILED: "Provision again, perhaps on another host (`warmpool hosts`).",
    Degraded.START_FAILED: "The server tries again. To be safe now, provision on another host (`warmpool hosts`).",
    Degraded.CONTRACT_ENDS: "Copy the data, and provision on another host before the contract ends.",
    Degraded.LOW_CREDIT: "Add credit to the marketplace account.",
    Degraded.SECRETS_UNAVAILABLE: "Restore the file that GPUPROXY_SECRETS_KEY_FILE names, or provision again.",
    Degraded.UNKNOWN_OUTCOME: "The server waits until the marketplace has shown what became of the create.",
}


def next_action(view: PoolView) -> str:
    """The sentence for the present state."""
    pool = view.pool
    if pool.wanted == "gone":
        return "Everything is being destroyed. The call cleanup says what is left."
    match pool.state:
        case PoolState.DISABLED:
            if view.primary is not None and view.primary.ended_at is None:
                return "Nothing is supervised. Primary and volume stay and are billed. Enable, or clean up."
            return "Nothing is supervised. Provision a pool."
        case PoolState.SEARCHING:
            return "The server searches a host for a primary, a standby and the volume."
        case PoolState.PROVISIONING:
            return f"Provisioning: {pool.progress or 'beginning'}."
        case PoolState.FAILOVER:
            return f"Failover: {pool.progress or 'beginning'}."
        case PoolState.ACTIVE:
            return "Nothing. The server checks the primary every two seconds."
    return _WAITS.get(pool.degraded, "The server tries again.")


def fence_of(view: PoolView) -> Literal["", "api_only", "api_and_lock"]:
    """What keeps two machines from writing to the volume: the lock counts once the primary's script has reported it."""
    primary = view.primary
    if primary is None or primary.state not in RENTED or not view.pool.founded:
        return ""
    return "api_and_lock" if dict(primary.observed.boot).get("lock") == "held" else "api_only"


def price_now(view: PoolView) -> Micro:
    """What everything costs per hour now."""
    return Micro(sum(meter_rate(each) or 0 for each in view.machines))
