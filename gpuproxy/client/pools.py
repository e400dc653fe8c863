"""The calls about warm pools: `client.pools` has them, blocking or for asyncio as the client.

A pool is named by `machine_id`, a positive number of the caller's own. Every method raises GPUProxyError if the call
fails. Calls that wait for machines have a timeout of 600 s.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, Protocol, TypeVar, Unpack

from google.protobuf.message import Message

from gpuproxy.client import demands, watching
from gpuproxy.client.demands import HostFilters, PoolSpec
from gpuproxy.v1 import gpuproxy_pb2 as pb

Request = TypeVar("Request", bound=Message)
View = TypeVar("View", bound=Message)


class Blocking(Protocol):
    """What this module needs of a blocking client."""

    stub: Any

    def call(self, method: Any, request: Any, *, timeout: float | None = None) -> Any:
        """Call a method of the stub."""

    def follow(
        self, method: Any, request: Callable[[], Any], received: Callable[[Any], View], streams: watching.Streams
    ) -> Iterator[View]:
        """Yield each message of a streaming method."""


class Asynchronous(Protocol):
    """What this module needs of an asyncio client."""

    stub: Any

    def call(self, method: Any, request: Any, *, timeout: float | None = None) -> Awaitable[Any]:
        """Call a method of the stub."""

    def follow(
        self, method: Any, request: Callable[[], Any], received: Callable[[Any], View], streams: watching.Streams
    ) -> AsyncGenerator[View, None]:
        """Yield each message of a streaming method."""


def provision_request(
    machine_id: int, host_machine_id: int, spec: PoolSpec, *, dry_run: bool = False, wait: bool = True
) -> pb.ProvisionWarmPoolRequest:
    """The request to make a pool on a host; raises WrongArgument."""
    fields = {"machine_id": machine_id, "host_machine_id": host_machine_id, "dry_run": dry_run, "wait": wait}
    return demands.filled(pb.ProvisionWarmPoolRequest(), {**fields, **spec})


def enable_request(machine_id: int, host_machine_id: int | None, spec: PoolSpec) -> pb.EnableWarmPoolRequest:
    """The request to take up a pool; raises WrongArgument."""
    host = {} if host_machine_id is None else {"host_machine_id": host_machine_id}
    return demands.filled(pb.EnableWarmPoolRequest(), {"machine_id": machine_id, **host, **spec})


class WarmPools:
    """The calls about warm pools, blocking."""

    def __init__(self, client: Blocking) -> None:
        self._client = client
        self._stub = client.stub

    def status(self, machine_id: int) -> pb.WarmPoolStatus:
        """Get a pool as it is. An unknown machine_id has the state "disabled"."""
        answer: pb.WarmPoolStatus = self._client.call(
            self._stub.GetWarmPoolStatus, demands.filled(pb.GetWarmPoolStatusRequest(), {"machine_id": machine_id})
        )
        return answer

    def list(self) -> Iterator[pb.WarmPoolStatus]:
        """Yield the project's pools by machine_id."""
        token = ""
        while True:
            answer = self._client.call(self._stub.ListWarmPools, pb.ListWarmPoolsRequest(page_token=token))
            yield from answer.pools
            token = answer.next_page_token
            if not token:
                return

    def hosts(self, **filters: Unpack[HostFilters]) -> pb.ListWarmPoolHostsResponse:
        """List hosts with GPUs for a pool: those that can carry one first, then the cheapest."""
        answer: pb.ListWarmPoolHostsResponse = self._client.call(
            self._stub.ListWarmPoolHosts, demands.filled(pb.ListWarmPoolHostsRequest(), filters)
        )
        return answer

    def plan(self, machine_id: int, host_machine_id: int, **spec: Unpack[PoolSpec]) -> pb.ProvisionWarmPoolResponse:
        """Return what `provision` would make and what it would cost, without renting anything (dry run)."""
        request = provision_request(machine_id, host_machine_id, spec, dry_run=True)
        answer: pb.ProvisionWarmPoolResponse = self._client.call(self._stub.ProvisionWarmPool, request)
        return answer

    def provision(
        self,
        machine_id: int,
        host_machine_id: int,
        *,
        wait: bool = True,
        timeout: float = demands.POOL_TIMEOUT,
        **spec: Unpack[PoolSpec],
    ) -> pb.ProvisionWarmPoolResponse:
        """Make a pool on a host, and wait until it is active. Look at `status.state`: the timeout may pass before.

        Repeating the call joins the running one and rents nothing twice.
        """
        request = provision_request(machine_id, host_machine_id, spec, wait=wait)
        answer: pb.ProvisionWarmPoolResponse = self._client.call(self._stub.ProvisionWarmPool, request, timeout=timeout)
        return answer

    def enable(
        self, machine_id: int, host_machine_id: int | None = None, **spec: Unpack[PoolSpec]
    ) -> pb.EnableWarmPoolResponse:
        """Take up a pool. What is not given is as in its last specification."""
        answer: pb.EnableWarmPoolResponse = self._client.call(
            self._stub.EnableWarmPool, enable_request(machine_id, host_machine_id, spec)
        )
        return answer

    def disable(self, machine_id: int) -> pb.DisableWarmPoolResponse:
        """End the supervision and destroy the standby. Primary and volume stay and are still billed."""
        answer: pb.DisableWarmPoolResponse = self._client.call(
            self._stub.DisableWarmPool, demands.filled(pb.DisableWarmPoolRequest(), {"machine_id": machine_id})
        )
        return answer

    def test_failover(
        self, machine_id: int, *, allow_destroy: bool = False, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.TestWarmPoolFailoverResponse:
        """Swap primary and standby. The primary's workload ends. `allow_destroy` is for the mode "recreate"."""
        request = pb.TestWarmPoolFailoverRequest(allow_destroy=allow_destroy)
        answer: pb.TestWarmPoolFailoverResponse = self._client.call(
            self._stub.TestWarmPoolFailover, demands.filled(request, {"machine_id": machine_id}), timeout=timeout
        )
        return answer

    def failover(
        self, machine_id: int, *, allow_unfenced: bool = False, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.FailoverWarmPoolResponse:
        """Fail over now. `allow_unfenced`: also if the old primary is not shown stopped."""
        request = pb.FailoverWarmPoolRequest(allow_unfenced=allow_unfenced)
        answer: pb.FailoverWarmPoolResponse = self._client.call(
            self._stub.FailoverWarmPool, demands.filled(request, {"machine_id": machine_id}), timeout=timeout
        )
        return answer

    def cleanup(
        self, machine_id: int, *, keep_volume: bool = False, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.CleanupWarmPoolResponse:
        """Destroy everything of a pool; the data is lost. `pending_ids` has what is not proven gone in time."""
        request = pb.CleanupWarmPoolRequest(keep_volume=keep_volume)
        answer: pb.CleanupWarmPoolResponse = self._client.call(
            self._stub.CleanupWarmPool, demands.filled(request, {"machine_id": machine_id}), timeout=timeout
        )
        return answer

    def delete_volume(
        self, machine_id: int, volume_id: str, *, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.DeleteRetainedVolumeResponse:
        """Delete a volume of `retained_volumes`; its data is lost."""
        fields = {"machine_id": machine_id, "volume_id": volume_id}
        answer: pb.DeleteRetainedVolumeResponse = self._client.call(
            self._stub.DeleteRetainedVolume, demands.filled(pb.DeleteRetainedVolumeRequest(), fields), timeout=timeout
        )
        return answer

    def watch(self, machine_id: int, *, timeout: float | None = None) -> Iterator[pb.WarmPoolStatus]:
        """Yield the pool, then each change of it in order. Broken streams are resumed.

        `timeout` is the limit of the whole watch in seconds; the default is none. Raises DeadlineExceeded after it.
        Without a limit, raises Unavailable if no server answers the first tries.
        """
        resume = watching.PoolResume(machine_id=machine_id, timeout=timeout)
        return self._client.follow(self._stub.WatchWarmPool, resume.request, resume.received, resume)


class AsyncWarmPools:
    """The calls about warm pools, for asyncio."""

    def __init__(self, client: Asynchronous) -> None:
        self._client = client
        self._stub = client.stub

    async def status(self, machine_id: int) -> pb.WarmPoolStatus:
        """Get a pool as it is. An unknown machine_id has the state "disabled"."""
        answer: pb.WarmPoolStatus = await self._client.call(
            self._stub.GetWarmPoolStatus, demands.filled(pb.GetWarmPoolStatusRequest(), {"machine_id": machine_id})
        )
        return answer

    async def list(self) -> AsyncGenerator[pb.WarmPoolStatus, None]:
        """Yield the project's pools by machine_id."""
        token = ""
        while True:
            answer = await self._client.call(self._stub.ListWarmPools, pb.ListWarmPoolsRequest(page_token=token))
            for pool in answer.pools:
                yield pool
            token = answer.next_page_token
            if not token:
                return

    async def hosts(self, **filters: Unpack[HostFilters]) -> pb.ListWarmPoolHostsResponse:
        """List hosts with GPUs for a pool: those that can carry one first, then the cheapest."""
        answer: pb.ListWarmPoolHostsResponse = await self._client.call(
            self._stub.ListWarmPoolHosts, demands.filled(pb.ListWarmPoolHostsRequest(), filters)
        )
        return answer

    async def plan(
        self, machine_id: int, host_machine_id: int, **spec: Unpack[PoolSpec]
    ) -> pb.ProvisionWarmPoolResponse:
        """Return what `provision` would make and what it would cost, without renting anything (dry run)."""
        request = provision_request(machine_id, host_machine_id, spec, dry_run=True)
        answer: pb.ProvisionWarmPoolResponse = await self._client.call(self._stub.ProvisionWarmPool, request)
        return answer

    async def provision(
        self,
        machine_id: int,
        host_machine_id: int,
        *,
        wait: bool = True,
        timeout: float = demands.POOL_TIMEOUT,
        **spec: Unpack[PoolSpec],
    ) -> pb.ProvisionWarmPoolResponse:
        """Make a pool on a host, and wait until it is active. Look at `status.state`: the timeout may pass before.

        Repeating the call joins the running one and rents nothing twice.
        """
        request = provision_request(machine_id, host_machine_id, spec, wait=wait)
        answer: pb.ProvisionWarmPoolResponse = await self._client.call(
            self._stub.ProvisionWarmPool, request, timeout=timeout
        )
        return answer

    async def enable(
        self, machine_id: int, host_machine_id: int | None = None, **spec: Unpack[PoolSpec]
    ) -> pb.EnableWarmPoolResponse:
        """Take up a pool. What is not given is as in its last specification."""
        answer: pb.EnableWarmPoolResponse = await self._client.call(
            self._stub.EnableWarmPool, enable_request(machine_id, host_machine_id, spec)
        )
        return answer

    async def disable(self, machine_id: int) -> pb.DisableWarmPoolResponse:
        """End the supervision and destroy the standby. Primary and volume stay and are still billed."""
        answer: pb.DisableWarmPoolResponse = await self._client.call(
            self._stub.DisableWarmPool, demands.filled(pb.DisableWarmPoolRequest(), {"machine_id": machine_id})
        )
        return answer

    async def test_failover(
        self, machine_id: int, *, allow_destroy: bool = False, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.TestWarmPoolFailoverResponse:
        """Swap primary and standby. The primary's workload ends. `allow_destroy` is for the mode "recreate"."""
        request = pb.TestWarmPoolFailoverRequest(allow_destroy=allow_destroy)
        answer: pb.TestWarmPoolFailoverResponse = await self._client.call(
            self._stub.TestWarmPoolFailover, demands.filled(request, {"machine_id": machine_id}), timeout=timeout
        )
        return answer

    async def failover(
        self, machine_id: int, *, allow_unfenced: bool = False, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.FailoverWarmPoolResponse:
        """Fail over now. `allow_unfenced`: also if the old primary is not shown stopped."""
        request = pb.FailoverWarmPoolRequest(allow_unfenced=allow_unfenced)
        answer: pb.FailoverWarmPoolResponse = await self._client.call(
            self._stub.FailoverWarmPool, demands.filled(request, {"machine_id": machine_id}), timeout=timeout
        )
        return answer

    async def cleanup(
        self, machine_id: int, *, keep_volume: bool = False, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.CleanupWarmPoolResponse:
        """Destroy everything of a pool; the data is lost. `pending_ids` has what is not proven gone in time."""
        request = pb.CleanupWarmPoolRequest(keep_volume=keep_volume)
        answer: pb.CleanupWarmPoolResponse = await self._client.call(
            self._stub.CleanupWarmPool, demands.filled(request, {"machine_id": machine_id}), timeout=timeout
        )
        return answer

    async def delete_volume(
        self, machine_id: int, volume_id: str, *, timeout: float = demands.POOL_TIMEOUT
    ) -> pb.DeleteRetainedVolumeResponse:
        """Delete a volume of `retained_volumes`; its data is lost."""
        fields = {"machine_id": machine_id, "volume_id": volume_id}
        answer: pb.DeleteRetainedVolumeResponse = await self._client.call(
            self._stub.DeleteRetainedVolume, demands.filled(pb.DeleteRetainedVolumeRequest(), fields), timeout=timeout
        )
        return answer

    def watch(self, machine_id: int, *, timeout: float | None = None) -> AsyncGenerator[pb.WarmPoolStatus, None]:
        """Yield the pool, then each change of it in order. Broken streams are resumed.

        `timeout` is the limit of the whole watch in seconds; the default is none. Raises DeadlineExceeded after it.
        Without a limit, raises Unavailable if no server answers the first tries.
        """
        resume = watching.PoolResume(machine_id=machine_id, timeout=timeout)
        return self._client.follow(self._stub.WatchWarmPool, resume.request, resume.received, resume)
