"""Scenes for decisions about pools: a pool with an active primary, a stopped standby and their volume, and changes."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gpuproxy.model.leases import (
    Creation,
    InstanceId,
    Lease,
    LeaseId,
    LeaseState,
    Observed,
    Offered,
    Pending,
    ReservationId,
)
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId
from gpuproxy.model.pools import Incident, Pool, PoolId, PoolSpec, PoolState
from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.scene import AtRest, Scene
from gpuproxy.warmpool.signals import Health, Signal
from tests.virtual_time import DAY_ONE
from tests.world import VAST

NOW = DAY_ONE + timedelta(hours=1)
LIMITS = PoolLimits()
VOLUME = "V.1"
S = LeaseState


def at(seconds: float) -> datetime:
    """So many seconds before now."""
    return NOW - timedelta(seconds=seconds)


def lease(name: str, state: LeaseState, *, kind: Any = "machine", instance: str | None = "", **changes: Any) -> Lease:
    """A lease of the pool; its machine mounts the volume."""
    creation = Creation(ceiling=Micro(9), call_started_at=at(600), volume=VOLUME if kind == "machine" else "")
    made = Lease(
        id=LeaseId(name), reservation_id=ReservationId("pool-1"), project="p1", attempt=1, provider=VAST,
        account="vast-1", label=name, state=state, version=1, created_at=at(600), kind=kind,
        instance_id=InstanceId(name if instance == "" else instance) if instance is not None else None,
        started_at=at(590), creation=creation, observed=Observed(price=Micro(8), disk_price=Micro(1)),
        offered=Offered(
            offer_id=OfferId(name), host=HostKey("vast.ai/7"), conflict_keys=(), gpu_model="RTX 4090", num_gpus=1,
            vram_gb=24, location="DE",
        ),
    )  # fmt: skip
    return replace(made, **changes)


def scene(
    *,
    primary: LeaseState | None = S.ACTIVE,
    standby: LeaseState | None = S.PARKED,
    others: tuple[Lease, ...] = (),
    state: PoolState = PoolState.ACTIVE,
    signal: Signal = Signal.HEALTHY,
    checks: int = 3,
    incident: Incident | None = None,
    at_rest: Mapping[str, AtRest] | None = None,
    pool: Mapping[str, Any] | None = None,
    **rest: Any,
) -> Scene:
    """An active pool whose standby's GPUs were seen free ten seconds ago, with changes."""
    rows = [lease("volume", S.ACTIVE, kind="volume", instance=VOLUME)]
    rows += [lease("primary", primary)] if primary is not None else []
    rows += [lease("standby", standby, pending=Pending(stop_at=at(500)))] if standby is not None else []
    rows += others
    facts: dict[str, Any] = {
        "primary": LeaseId("primary") if primary is not None else None,
        "standby": LeaseId("standby") if standby is not None else None,
        **(pool or {}),
    }
    made = Pool(
        id=PoolId("pool-1"), project="p1", machine_id=1, ledger=ReservationId("pool-1"), state=state,
        wanted=facts.pop("wanted", "supervised"), created_at=at(700), spec=facts.pop("spec", PoolSpec(max_price=5.0)),
        nonce="n", provider=VAST, account="vast-1", host=HostKey("vast.ai/7"), mode=facts.pop("mode", "shared"),
        volume=LeaseId("volume"), founded=facts.pop("founded", True), looked_at=facts.pop("looked_at", at(10)),
        checked_at=at(10), step_began_at=facts.pop("step_began_at", at(20)), **facts,
    )  # fmt: skip
    good = NOW if signal is Signal.HEALTHY else at(8)
    health = rest.pop("health", Health(signal, checks, at(2 * checks), NOW, good, NOW, checks))
    return Scene(
        pool=made, leases={each.id: each for each in rows}, incident=incident, now=NOW, limits=LIMITS,
        health=health,
        at_rest={LeaseId(name): proof for name, proof in (at_rest or {}).items()}, **rest,
    )  # fmt: skip


def incident(**changes: Any) -> Incident:
    """An open incident of the primary."""
    made = Incident(
        pool_id=PoolId("pool-1"), number=1, kind="failure", primary=LeaseId("primary"), began_at=at(15),
        last_good_at=at(21),
    )  # fmt: skip
    return replace(made, **changes)


PROVEN = AtRest(at(7), at(1))
"""Two reads, far enough apart, that show a machine at rest. Its last probe was after the first of them."""
ONE_READ = AtRest(at(1), at(1))
SILENT = Health(Signal.STOPPED, 3, at(6), NOW, at(21), NOW, 3)
