"""The load of hosts and providers, as callers see it.

Machines that are being released are left out. The balancer counts them, because their GPUs are not free yet.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.loadbalancer.setting import strategy_for
from gpuproxy.model import ids
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.load import HostLoad
from gpuproxy.model.offers import HostKey, ProviderName
from gpuproxy.model.strategies import STRATEGIES, weight
from gpuproxy.ports import Database, Tx
from gpuproxy.store import counters, leases


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRow:
    """The load of one instance's host, or of one provider."""

    id: str
    provider: ProviderName
    connections: int
    gpus: int
    """All GPUs of the host, or the GPUs of our leases at the provider."""
    response_ms: float = 0.0
    samples: int = 0
    """The number of samples in response_ms."""
    weight: float = 0.0
    """The weight under weighted_round_robin; 0 under other strategies."""
    last_used: datetime | None = None
    picks: int = 0
    ejected_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Load by instance and by provider."""

    server: tuple[LoadRow, ...]
    provider: tuple[LoadRow, ...]
    strategy: str


class Load:
    """Reads the counters."""

    def __init__(self, db: Database, default_strategy: str) -> None:
        self._db = db
        self._default_strategy = default_strategy

    async def report(self, caller: Caller, instance_id: str) -> LoadReport:
        """The load of the project's live instances (or of one), and of each provider in use. Raises NotFound."""

        def read(tx: Tx) -> LoadReport:
            held = [lease for lease in leases.live_of_project(tx, None) if lease.state is not LeaseState.RELEASING]
            rows = [lease for lease in held if lease.instance_id is not None and caller.sees(lease.project)]
            if instance_id:
                rows = [lease for lease in rows if lease.instance_id == instance_id]
                if not rows:
                    raise _not_held(instance_id)
            strategy = strategy_for(tx, caller.project, self._default_strategy)
            hosts = counters.loads(tx)
            weighted = STRATEGIES[strategy].weighted
            on_host = Counter(lease.offered.host for lease in held)
            return LoadReport(
                server=tuple(
                    _server_row(lease, on_host[lease.offered.host], hosts[lease.offered.host], weighted=weighted)
                    for lease in rows
                ),
                provider=_provider_rows(held, hosts),
                strategy=strategy,
            )

        return await self._db.read(read)


def _not_held(instance_id: str) -> NotFound:
    said = ids.hint(instance_id) or (
        "It does not exist, or it is being released. ListGPUInstances with `state: rented` lists your instances."
    )
    return NotFound(f"You have no instance {instance_id}. {said}", metadata={"instance_id": instance_id})


def _server_row(lease: Lease, connections: int, load: HostLoad, *, weighted: bool) -> LoadRow:
    return LoadRow(
        id=lease.instance_id or "",
        provider=lease.provider,
        connections=connections,
        gpus=lease.offered.host_gpus or lease.offered.num_gpus,
        response_ms=load.response_ms,
        samples=load.samples,
        weight=weight(lease.offered.vram_gb, lease.observed.price, lease.offered.num_gpus) / 10 if weighted else 0.0,
        last_used=load.last_picked_at,
        picks=load.picks,
        ejected_until=load.ejected_until,
    )


def _provider_rows(rows: Iterable[Lease], hosts: Mapping[HostKey, HostLoad]) -> tuple[LoadRow, ...]:
    by_provider: dict[ProviderName, list[Lease]] = {}
    for lease in rows:
        by_provider.setdefault(lease.provider, []).append(lease)
    return tuple(
        _provider_row(provider, live, [load for host, load in hosts.items() if host.startswith(f"{provider}/")])
        for provider, live in sorted(by_provider.items())
    )


def _provider_row(provider: ProviderName, live: Sequence[Lease], hosts: Sequence[HostLoad]) -> LoadRow:
    samples = sum(load.samples for load in hosts)
    return LoadRow(
        id=provider,
        provider=provider,
        connections=len(live),
        gpus=sum(lease.offered.num_gpus for lease in live),
        response_ms=sum(load.samples * load.response_ms for load in hosts) / samples if samples else 0.0,
        samples=samples,
        last_used=max(lease.created_at for lease in live),
        picks=sum(load.picks for load in hosts),
    )
