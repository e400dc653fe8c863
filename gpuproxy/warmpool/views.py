"""Reading pools for clients, and waiting until a pool is as a call wants it."""

from collections.abc import Callable
from dataclasses import replace

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.leases import Lease
from gpuproxy.model.pools import Pool, PoolId, PoolView
from gpuproxy.ports import Clock, Database, Tx
from gpuproxy.store import pools
from gpuproxy.warmpool.explaining import fence_of, next_action, price_now
from gpuproxy.warmpool.supervisor import Supervisor

_MOMENT = 0.001
"""Seconds that are not worth waiting for. A shorter timer might not move the clock at all."""
_MARGIN = 0.25
"""Real seconds before the deadline at which a call answers with what there is."""
_LOOK_AGAIN = 5.0


class PoolViews:
    """The pools as clients see them."""

    def __init__(self, db: Database, clock: Clock, supervisor: Supervisor) -> None:
        self._db = db
        self._clock = clock
        self._supervisor = supervisor

    def told(self, view: PoolView) -> PoolView:
        """The view with what is not stored: the last check, the present price, and what comes next."""
        memory = self._supervisor.health_of(view.pool.id)
        checked_at = None if memory is None else memory.health.checked_at
        pool = replace(view.pool, fence=fence_of(view))
        view = replace(view, pool=pool, price=price_now(view), health_checked_at=checked_at)
        return replace(view, next_action=next_action(view, self._supervisor.check_seconds))

    async def of(self, pool_id: PoolId) -> PoolView:
        """The pool as it is now."""
        return self.told(await self._db.read(lambda tx: pools.view(tx, pools.get(tx, pool_id))))

    async def until(
        self, caller: Caller, pool_id: PoolId, done: Callable[[PoolView], bool], topic: Lease | None = None
    ) -> PoolView:
        """The pool once `done`, or as it is at the caller's deadline."""
        name = pools.topic(pool_id) if topic is None else f"reservation:{topic.reservation_id}"
        until = caller.deadline - _MARGIN * self._clock.scale
        async with self._db.watch(name) as wakeups:
            while True:
                view = await self.of(pool_id)
                left = until - self._clock.monotonic()
                if done(view) or left < _MOMENT:
                    return view
                try:
                    async with self._clock.timeout(min(left, 5.0)):
                        await wakeups.wait()
                except TimeoutError:
                    continue


def known(tx: Tx, caller: Caller, machine_id: int) -> Pool:
    """The project's pool for a machine_id. Raises NotFound."""
    pool = pools.of_machine(tx, caller.project, machine_id)
    if pool is None:
        raise NotFound(f"There is no warm pool for machine {machine_id}. Provision one first.")
    return pool
