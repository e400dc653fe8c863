"""The RPCs for warm pools. `service` includes them if the engine has warm pools."""
# ruff: noqa: N802 - methods are named as in the contract

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gpuproxy.edge.messages import pool_demands, pools
from gpuproxy.edge.messages.pool_demands import PagePlace, PoolDefaults, machine_id_of
from gpuproxy.model.demands import Caller
from gpuproxy.ports import Clock
from gpuproxy.reservations import pages
from gpuproxy.v1 import gpuproxy_pb2 as pb
from gpuproxy.warmpool.requests import WarmPools

_LIST = pages.digest("ListWarmPools", b"")


class PoolCalls:
    """The RPCs for warm pools: translate the request, call the engine, translate the result."""

    def __init__(self, engine: WarmPools, defaults: PoolDefaults, clock: Clock) -> None:
        self._engine = engine
        self._defaults = defaults
        self._clock = clock

    async def GetWarmPoolStatus(self, request: pb.GetWarmPoolStatusRequest, caller: Caller) -> pb.WarmPoolStatus:
        """Return a pool as it is; an unknown machine_id is disabled."""
        machine_id = machine_id_of(request)
        view = await self._engine.status(caller, machine_id)
        if view is None:
            return pools.unknown_status(machine_id)
        return pools.status_message(view, self._clock.now())

    async def ListWarmPools(self, request: pb.ListWarmPoolsRequest, caller: Caller) -> pb.ListWarmPoolsResponse:
        """Return a page of the pools, by machine_id."""
        size = pool_demands.page_size_of(request)
        last = pages.after(request.page_token, _LIST, PagePlace)
        views, total = await self._engine.listed(caller, last.machine_id if last else 0, size + 1)
        shown, now = views[:size], self._clock.now()
        more = len(views) > size
        return pb.ListWarmPoolsResponse(
            pools=[pools.status_message(view, now) for view in shown],
            next_page_token=pages.token(_LIST, PagePlace(shown[-1].pool.machine_id)) if more else "",
            total_count=total,
        )

    async def ListWarmPoolHosts(
        self, request: pb.ListWarmPoolHostsRequest, caller: Caller
    ) -> pb.ListWarmPoolHostsResponse:
        """Return the hosts that could carry a pool."""
        query = pool_demands.host_query(request, self._defaults)
        return pools.hosts_answer(await self._engine.hosts(caller, query))

    async def ProvisionWarmPool(
        self, request: pb.ProvisionWarmPoolRequest, caller: Caller
    ) -> pb.ProvisionWarmPoolResponse:
        """Make a pool on a host."""
        demand = pool_demands.provision_demand(request, self._defaults)
        view, plan = await self._engine.provision(caller, demand)
        return pools.provision_answer(view, plan, self._clock.now(), dry_run=demand.dry_run)

    async def EnableWarmPool(self, request: pb.EnableWarmPoolRequest, caller: Caller) -> pb.EnableWarmPoolResponse:
        """Take up the supervision of a pool."""
        demand = pool_demands.enable_demand(request)
        return pools.enable_answer(demand.machine_id, await self._engine.enable(caller, demand))

    async def DisableWarmPool(self, request: pb.DisableWarmPoolRequest, caller: Caller) -> pb.DisableWarmPoolResponse:
        """End the supervision of a pool."""
        machine_id = machine_id_of(request)
        return pools.disable_answer(machine_id, await self._engine.disable(caller, machine_id))

    async def TestWarmPoolFailover(
        self, request: pb.TestWarmPoolFailoverRequest, caller: Caller
    ) -> pb.TestWarmPoolFailoverResponse:
        """Swap primary and standby."""
        machine_id = machine_id_of(request)
        return pools.test_answer(await self._engine.test(caller, machine_id, allow_destroy=request.allow_destroy))

    async def FailoverWarmPool(
        self, request: pb.FailoverWarmPoolRequest, caller: Caller
    ) -> pb.FailoverWarmPoolResponse:
        """Fail over now."""
        machine_id, unfenced = machine_id_of(request), request.allow_unfenced
        return pools.failover_answer(await self._engine.failover(caller, machine_id, allow_unfenced=unfenced))

    async def CleanupWarmPool(self, request: pb.CleanupWarmPoolRequest, caller: Caller) -> pb.CleanupWarmPoolResponse:
        """Destroy everything of a pool."""
        machine_id = machine_id_of(request)
        result = await self._engine.cleanup(caller, machine_id, keep_volume=request.keep_volume)
        return pools.cleanup_answer(machine_id, result)

    async def DeleteRetainedVolume(
        self, request: pb.DeleteRetainedVolumeRequest, caller: Caller
    ) -> pb.DeleteRetainedVolumeResponse:
        """Delete a volume that a pool no longer uses."""
        machine_id, volume_id = pool_demands.volume_id_of(request)
        result = await self._engine.delete_retained_volume(caller, machine_id, volume_id)
        return pools.delete_volume_answer(machine_id, volume_id, result)

    async def WatchWarmPool(
        self, request: pb.WatchWarmPoolRequest, caller: Caller
    ) -> AsyncGenerator[pb.WarmPoolStatus, None]:
        """Yield a pool each time it changes."""
        machine_id = machine_id_of(request)
        async with aclosing(self._engine.watch(caller, machine_id, request.resume_token)) as changes:
            async for token, view in changes:
                yield pools.status_message(view, self._clock.now(), token)
