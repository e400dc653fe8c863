"""What a pool does next, and what its owner can do, in sentences for people. Pure."""

from typing import Literal

from gpuproxy.model.leases import RENTED
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro
from gpuproxy.model.pools import PoolState, PoolView
from gpuproxy.warmpool.health_urls import missing_port
from gpuproxy.warmpool.hints import hint


def next_action(view: PoolView, check_seconds: float) -> str:
    """The sentence for the present state. `check_seconds`: between two checks of a primary."""
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
            return f"The primary is checked every {check_seconds:g} s.{_other_check(view)}"
    return hint(view) or "The server tries again."


def _other_check(view: PoolView) -> str:
    """How a primary is checked that has no port for the health URL."""
    primary = view.primary
    if primary is None or (port := missing_port(view.pool.spec, primary)) is None:
        return ""
    how = "over SSH" if primary.observed.ssh_port else "over TCP"
    return f" It was created without port {port}, so it is checked {how}. `health` counts from the next machine on."


def fence_of(view: PoolView) -> Literal["", "api_only", "api_and_lock"]:
    """What keeps two machines from writing to the volume: the lock counts once the primary's script has reported it."""
    primary = view.primary
    if primary is None or primary.state not in RENTED or not view.pool.founded:
        return ""
    return "api_and_lock" if dict(primary.observed.boot).get("lock") == "held" else "api_only"


def price_now(view: PoolView) -> Micro:
    """What everything costs per hour now."""
    return Micro(sum(meter_rate(each) or 0 for each in view.machines))
