"""Disabling a pool, and cleaning it up: what is released, in which order, and when that has ended. Pure."""

from dataclasses import replace

from gpuproxy.model.leases import TERMINAL
from gpuproxy.model.pools import NO_HOST, Degraded, PoolEvent, PoolState
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.scene import SOON, Act, Change, Rest, Scene
from gpuproxy.warmpool.tidying import releasable, tidied, unsent
from gpuproxy.warmpool.tries import calm


def disabling(s: Scene) -> Act:
    """Give back all but the primary and the volume. The state is disabled already, or becomes so."""
    pool = s.pool
    if pool.state is not PoolState.DISABLED:
        disabled = replace(
            calm(pool), standby=None, failed=None, failed_until=None, checked_at=None, looked_at=None, misses=0
        )
        incident = None if s.incident is None else replace(
            s.incident, ended_at=s.now, outcome="failed", reason="the pool was disabled"
        )  # fmt: skip
        given_up = unsent(s)
        kept = (pool.primary, *given_up)
        given_back = tuple(
            (each.id, Reason.POOL_CHANGED) for each in s.machines if each.id not in kept and releasable(each)
        )
        return Change(
            event=PoolEvent.DISABLE, reason="it was asked for", pool=disabled, incident=incident, releases=given_back,
            unsent=given_up,
        )  # fmt: skip
    return tidied(s) or Rest()


def ending(s: Scene) -> Act:
    """Release the machines, prove them gone, and then the volumes, which can't be deleted while a machine has them."""
    left = [each for each in s.leases.values() if each.state not in TERMINAL]
    machines = [each for each in left if each.kind == "machine"]
    given_up = unsent(s)
    due = [each for each in (machines or ([] if s.pool.keep_volume else left)) if releasable(each)]
    if due or given_up:
        return Change(reason="cleanup", releases=tuple((each.id, Reason.RELEASED) for each in due), unsent=given_up)
    if machines or (left and not s.pool.keep_volume):
        return Rest(SOON)
    return Change(
        reason="everything is proven gone",
        pool=replace(
            s.pool, wanted="disabled", primary=None, standby=None, volume=None, failed=None, failed_until=None,
            founded=False, host=NO_HOST, account=s.pool.account if left else "", mode="",
            keep_volume=False, progress="", error="", degraded=Degraded.NONE,
        ),
    )  # fmt: skip
