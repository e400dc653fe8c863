"""Failovers that are asked for: write the wish, wait for the incident, tell how it ended."""

from collections.abc import Callable
from dataclasses import replace

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.pool_calls import FailoverResult
from gpuproxy.model.pools import Incident, Pool
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import Database, Tx
from gpuproxy.store import audit, pools
from gpuproxy.warmpool.provisioning import wrong_state
from gpuproxy.warmpool.views import PoolViews, known


async def failed_over(
    db: Database,
    views: PoolViews,
    caller: Caller,
    machine_id: int,
    *,
    check: Callable[[Pool], None],
    asked: Callable[[Pool], Pool],
) -> FailoverResult:
    """Ask for a failover with `asked`, if `check` allows it, and wait up to the caller's deadline.

    Raises what `check` raises, POOL_STATE, FAILOVER_FAILED and DEADLINE_EXCEEDED.
    """

    def write(tx: Tx) -> tuple[Pool, int]:
        pool = known(tx, caller, machine_id)
        check(pool)
        if pool.wanted != "supervised":
            raise wrong_state(pool, "is being disabled")
        open_now = pools.open_incident(tx, pool.id)
        number = pools.next_number(tx, pool.id) if open_now is None else open_now.number
        wish = asked(pool)
        detail = f"{wish.asked}, unfenced" if wish.unfenced else wish.asked
        audit.record(tx, caller, "pool_failover", str(machine_id), detail, project=pool.project)
        return pools.save(tx, pool, replace(wish, asked_by=caller.key_id)), number

    pool, number = await db.write(write)

    def over(tx: Tx) -> Incident | None:
        last = pools.last_incident(tx, pool.id)
        return last if last is not None and last.number >= number and last.ended_at is not None else None

    view = await views.until(caller, pool.id, lambda view: view.incident is None and view.pool.asked == "")
    ended = await db.read(over)
    if ended is None and view.incident is None and not view.pool.asked:
        raise Refusal(
            f"The failover of warm pool {machine_id} was given up: {view.next_action}", reason=Reason.FAILOVER_FAILED
        )
    if ended is None:
        raise Refusal(
            f"The failover of warm pool {machine_id} is not finished: {view.next_action}",
            reason=Reason.DEADLINE_EXCEEDED,
        )
    if ended.outcome != "promoted" or view.primary is None:
        raise Refusal(
            f"The failover of warm pool {machine_id} failed: {ended.reason}. {view.next_action}",
            reason=Reason.FAILOVER_FAILED,
        )
    seconds = ((ended.ended_at or ended.began_at) - ended.began_at).total_seconds()
    return FailoverResult(recovery_s=seconds, new_primary=view.primary, view=view)
