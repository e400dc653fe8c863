"""What is asked of warm pools, and what is answered besides their state."""

from collections.abc import Mapping
from dataclasses import dataclass

from gpuproxy.model.leases import Lease
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import DEFAULT_DISK_GB, HostKey, Offer, ProviderName
from gpuproxy.model.pools import DEFAULT_MIN_GPUS, DEFAULT_VOLUME_GB, NO_HOST, Mode, PoolSecrets, PoolSpec, PoolView

_NO_SECRETS = PoolSecrets()
CALL_NAMES: Mapping[str, str] = {
    "gpu_model": "gpu_name",
    "disk_gb": "disk_size",
    "volume_gb": "volume_size",
    "keep_failed": "keep_failed_primary",
}
"""What the calls name the fields of PoolSpec that have another name there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """What a pool is or would be made of. Prices are per hour, from the marketplace's offers."""

    spec: PoolSpec
    mode: Mode
    host: HostKey = NO_HOST
    gpu_model: str = ""
    primary_price: Micro | None = None
    """None while no host is chosen."""
    standby_price: Micro | None = None
    """Of the stopped standby: its disk."""
    volume_price: Micro | None = None
    later: tuple[str, ...] = ()
    """Fields of the call that change only what is created later. The primary and the volume stay as they are."""

    @property
    def price(self) -> Micro | None:
        """Of everything, once active; None while no host is chosen."""
        parts = (self.primary_price, self.standby_price, self.volume_price)
        return None if self.primary_price is None else Micro(sum(part or 0 for part in parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHost:
    """A host that could carry a pool."""

    host: HostKey
    machine_id: int
    gpu_model: str
    total_gpus: int
    available_gpus: int
    """How many can be rented at once."""
    average_price: Micro
    """Per GPU-hour, over the offers."""
    reliability_ppm: int
    verified: bool
    location: str
    fits: bool
    """Two chunks and the volume fit at once."""
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostQuery:
    """What hosts are asked for."""

    gpu_model: str = ""
    min_gpus: int = DEFAULT_MIN_GPUS
    max_price: float
    """USD per GPU-hour."""
    verified_only: bool = True
    volume_gb: int = DEFAULT_VOLUME_GB
    disk_gb: int = DEFAULT_DISK_GB
    provider: ProviderName


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionDemand:
    """One ProvisionWarmPool call, checked and complete."""

    machine_id: int
    host_machine_id: int
    provider: ProviderName
    spec: PoolSpec
    secrets: PoolSecrets = _NO_SECRETS
    dry_run: bool = False
    wait: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableDemand:
    """One EnableWarmPool call: `given` has the fields of PoolSpec that the caller set."""

    machine_id: int
    host_machine_id: int | None = None
    given: tuple[tuple[str, object], ...] = ()
    secrets: PoolSecrets | None = None
    """None: the caller set none, and what is stored stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enabled:
    """The result of EnableWarmPool."""

    view: PoolView
    plan: PoolPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverResult:
    """The result of a test or of a failover that was asked for."""

    recovery_s: float
    new_primary: Lease
    view: PoolView


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanupResult:
    """The result of a cleanup: the contract and volume ids that are not proven gone yet; empty: it is finished."""

    pending_ids: tuple[str, ...]
    view: PoolView
