"""The calls of clients about warm pools. A call writes what is wanted; the supervisor of the account does it.

So a call may arrive at any process, and a call that ends early changes nothing about what was wanted.
"""

from collections.abc import AsyncGenerator, Sequence

from gpuproxy.model.demands import Caller
from gpuproxy.model.pools import (
    CleanupResult,
    Enabled,
    EnableDemand,
    FailoverResult,
    HostQuery,
    PoolHost,
    PoolPlan,
    PoolView,
    ProvisionDemand,
)


class WarmPools:
    """The warm pools of a caller's project."""

    async def status(self, caller: Caller, machine_id: int) -> PoolView | None:
        """The pool; None for an unknown machine_id, which clients see as disabled."""
        raise NotImplementedError

    async def listed(self, caller: Caller, after: int, limit: int) -> tuple[Sequence[PoolView], int]:
        """At most `limit` pools with a machine_id above `after`, by machine_id; and how many there are in all."""
        raise NotImplementedError

    async def hosts(self, caller: Caller, query: HostQuery) -> Sequence[PoolHost]:
        """Hosts that match: those that can carry a pool first, then cheapest first."""
        raise NotImplementedError

    async def provision(self, caller: Caller, demand: ProvisionDemand) -> tuple[PoolView, PoolPlan]:
        """Make a pool on a host. Waits for `active` up to the caller's deadline, unless `wait` is False.

        Returns with another state than active when the time is over. Raises PROVISION_FAILED, POOL_EXISTS, POOL_STATE,
        NOT_ENOUGH_GPUS and NOT_SUPPORTED. A dry run has a view without machines.
        """
        raise NotImplementedError

    async def enable(self, caller: Caller, demand: EnableDemand) -> Enabled:
        """Take up supervision, on the host of the pool or on one that is searched. Raises NO_SPEC, POOL_STATE."""
        raise NotImplementedError

    async def disable(self, caller: Caller, machine_id: int) -> PoolView:
        """End supervision and give the standby back. During a failover it takes effect when that ends."""
        raise NotImplementedError

    async def test(self, caller: Caller, machine_id: int, *, allow_destroy: bool) -> FailoverResult:
        """Swap the roles as a failure would. Raises POOL_STATE, DESTROYS_PRIMARY, FAILOVER_FAILED."""
        raise NotImplementedError

    async def failover(self, caller: Caller, machine_id: int, *, allow_unfenced: bool) -> FailoverResult:
        """Fail over now. Raises POOL_STATE, FAILOVER_FAILED."""
        raise NotImplementedError

    async def cleanup(self, caller: Caller, machine_id: int, *, keep_volume: bool) -> CleanupResult:
        """Release everything. Waits up to the caller's deadline until each part is proven gone."""
        raise NotImplementedError

    async def delete_retained_volume(self, caller: Caller, machine_id: int, volume_id: str) -> CleanupResult:
        """Delete a volume that the pool no longer uses, and its data. Waits like `cleanup`. Raises VOLUME_IN_USE."""
        raise NotImplementedError

    def watch(self, caller: Caller, machine_id: int, resume_token: str) -> AsyncGenerator[tuple[str, PoolView], None]:
        """The present state or, with a token, the changes after it; then every further change, with its token."""
        raise NotImplementedError
