"""Warm pools for tests of the edge: an engine that records its calls and returns given views."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import InstanceId, Lease, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, Offer
from gpuproxy.model.pool_calls import (
    CleanupResult,
    Enabled,
    EnableDemand,
    FailoverResult,
    HostQuery,
    PoolHost,
    PoolPlan,
    ProvisionDemand,
)
from gpuproxy.model.pools import (
    FailoverTimes,
    Incident,
    Pool,
    PoolEvent,
    PoolId,
    PoolSpec,
    PoolState,
    PoolView,
    Transition,
)
from gpuproxy.warmpool.requests import WarmPools
from tests.edge.engine import NOW, VAST, lease, offer

HOST = HostKey("vast.ai/88888")
SPEC = PoolSpec(gpu_model="RTX 4090", max_price=2.5, price_from="GPUPROXY_WARMPOOL_MAX_PRICE")


def machine(number: int, contract: int, state: LeaseState = LeaseState.ACTIVE, **facts: Any) -> Lease:
    """A machine of the pool, for $0.45 an hour while it runs and $0.01 while it is stopped."""
    facts = {"billed": "all" if state is LeaseState.ACTIVE else "disk"} | facts
    made = lease(number, state, price=Micro(450_000), disk_price=Micro(10_000), host=HOST, **facts)
    return replace(made, instance_id=InstanceId(str(contract)), started_at=NOW)


def volume(number: int, contract: int, size_gb: float = 100.0) -> Lease:
    """A volume for $0.002 an hour."""
    made = lease(number, LeaseState.ACTIVE, price=Micro(2_000), disk_price=Micro(2_000), host=HOST, disk_gb=size_gb)
    offered = replace(made.offered, num_gpus=0, vram_gb=0, gpu_model="")
    return replace(made, kind="volume", instance_id=InstanceId(f"V.{contract}"), offered=offered)


PRIMARY = machine(1, 456789)
STANDBY = machine(2, 456790, LeaseState.PARKED)
VOLUME = volume(3, 12345)
PLAN = PoolPlan(
    spec=SPEC,
    mode="shared",
    host=HOST,
    gpu_model="RTX 4090",
    primary_price=Micro(450_000),
    standby_price=Micro(10_000),
    volume_price=Micro(2_000),
)
TIMES = FailoverTimes(
    at=NOW - timedelta(hours=26),
    kind="failure",
    total=41.5,
    phases=(("detect", 6.0), ("fence", 10.5), ("start", 20.0), ("reachable", 4.0), ("promote", 1.0)),
)


TRANSITION = Transition(
    seq=3,
    at=NOW,
    before=PoolState.PROVISIONING,
    after=PoolState.ACTIVE,
    event=PoolEvent.PROVISIONED,
    reason="the standby is stopped",
)


def pool(**facts: Any) -> Pool:
    """An active pool as the published document shows it."""
    made = Pool(
        id=PoolId("pool-1"),
        project="p1",
        machine_id=123,
        ledger=ReservationId("res-pool"),
        state=PoolState.ACTIVE,
        wanted="supervised",
        created_at=NOW,
        spec=SPEC,
        nonce="n",
        provider=VAST,
        account="main",
        host=HOST,
        mode="shared",
        mode_why="the marketplace takes the standby's create with the volume",
        primary=PRIMARY.id,
        standby=STANDBY.id,
        volume=VOLUME.id,
        checked_at=NOW - timedelta(seconds=12),
        fence="api_and_lock",
        data_state="same_volume",
        failover_count=2,
        last_failover_at=NOW - timedelta(hours=26),
        detected_after_s=6.0,
        recovery_s=35.5,
        outage_s=41.5,
    )
    return replace(made, **facts)


def pool_view(*, machines: Sequence[Lease] | None = None, facts: Any = None, **parts: Any) -> PoolView:
    """A view of `pool(**facts)`; `parts` are fields of the view."""
    made = PoolView(
        pool=pool(**(facts or {})),
        primary=PRIMARY,
        standby=STANDBY,
        volume=VOLUME,
        machines=tuple(machines if machines is not None else (VOLUME, STANDBY, PRIMARY)),
        transitions=(TRANSITION,),
        seq=3,
        failovers=(TIMES,),
        health_checked_at=NOW - timedelta(seconds=1),
        price=Micro(462_000),
        next_action="The primary is checked every 2 s.",
    )
    return replace(made, **parts)


def open_incident(**facts: Any) -> Incident:
    made = Incident(pool_id=PoolId("pool-1"), number=3, kind="failure", primary=LeaseId("lease-1"), began_at=NOW)
    return replace(made, **facts)


def pool_offer(number: int = 123456) -> Offer:
    return offer(number, price=450_000, host=HOST, location="Texas, US", reliability_ppm=980_000)


def pool_host(*, fits: bool = True) -> PoolHost:
    return PoolHost(
        host=HOST,
        machine_id=88888,
        gpu_model="RTX 4090",
        total_gpus=4,
        available_gpus=3,
        average_price=Micro(450_000),
        reliability_ppm=980_000,
        verified=True,
        location="Texas, US",
        fits=fits,
        offers=(pool_offer(),),
    )


@dataclass
class StubPools(WarmPools):
    """Records each call in `asked`, and returns `view`, or raises it."""

    view: PoolView | Refusal | None = field(default_factory=pool_view)
    plan: PoolPlan = PLAN
    pending: tuple[str, ...] = ()
    changes: Sequence[tuple[str, PoolView]] = ()
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)

    def _answered(self, caller: Caller, *asked: Any) -> PoolView:
        self.callers.append(caller)
        self.asked.append(asked)
        if isinstance(self.view, Refusal):
            raise self.view
        assert self.view is not None
        return self.view

    async def status(self, caller: Caller, machine_id: int) -> PoolView | None:
        return None if self.view is None else self._answered(caller, "status", machine_id)

    async def listed(self, caller: Caller, after: int, limit: int) -> tuple[Sequence[PoolView], int]:
        view = self._answered(caller, "listed", after, limit)
        ids = [number for number in (1, 2, 3) if number > after]
        return [replace(view, pool=replace(view.pool, machine_id=number)) for number in ids[:limit]], 3

    async def hosts(self, caller: Caller, query: HostQuery) -> Sequence[PoolHost]:
        self._answered(caller, "hosts", query)
        return [pool_host(), pool_host(fits=False)]

    async def provision(self, caller: Caller, demand: ProvisionDemand) -> tuple[PoolView, PoolPlan]:
        return self._answered(caller, "provision", demand), replace(self.plan, spec=demand.spec)

    async def enable(self, caller: Caller, demand: EnableDemand) -> Enabled:
        return Enabled(view=self._answered(caller, "enable", demand), plan=self.plan)

    async def disable(self, caller: Caller, machine_id: int) -> PoolView:
        return self._answered(caller, "disable", machine_id)

    async def test(self, caller: Caller, machine_id: int, *, allow_destroy: bool) -> FailoverResult:
        view = self._answered(caller, "test", machine_id, allow_destroy)
        return FailoverResult(recovery_s=35.2, new_primary=STANDBY, view=view)

    async def failover(self, caller: Caller, machine_id: int, *, allow_unfenced: bool) -> FailoverResult:
        view = self._answered(caller, "failover", machine_id, allow_unfenced)
        return FailoverResult(recovery_s=35.2, new_primary=STANDBY, view=view)

    async def cleanup(self, caller: Caller, machine_id: int, *, keep_volume: bool) -> CleanupResult:
        view = self._answered(caller, "cleanup", machine_id, keep_volume)
        return CleanupResult(pending_ids=self.pending, view=view)

    async def delete_retained_volume(self, caller: Caller, machine_id: int, volume_id: str) -> CleanupResult:
        view = self._answered(caller, "delete_volume", machine_id, volume_id)
        return CleanupResult(pending_ids=self.pending, view=view)

    async def watch(
        self, caller: Caller, machine_id: int, resume_token: str
    ) -> AsyncGenerator[tuple[str, PoolView], None]:
        self._answered(caller, "watch", machine_id, resume_token)
        for token, view in self.changes:
            if not resume_token or token > resume_token:
                yield token, view


def at(seconds: float) -> datetime:
    """So many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)
