"""What a provider says about volumes: disk space on one host that outlives the machines that mount it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import HOURS_PER_MONTH, Micro
from gpuproxy.model.offers import OfferId


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeOffer:
    """Disk space that a host rents out. One offer can be rented many times, as long as there is space."""

    id: OfferId
    """With the provider's prefix, like the id of an offer of GPUs."""
    machine_id: str
    max_gb: int
    price_month: Micro
    """Per GB and month."""
    ends_at: datetime | None = None

    def price(self, size_gb: int) -> Micro:
        """Micro-dollars per hour of a volume."""
        return Micro(round(self.price_month * size_gb / HOURS_PER_MONTH))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVolume:
    """A volume that exists. Its id is unlike every id of an instance of the provider ("V.123")."""

    id: InstanceId
    label: str | None
    """The label that it was created with; None if it is not one of ours."""
    machine_id: str
    size_gb: int
    price: Micro | None = None
    """Per hour; None if the provider does not say."""
    used_by: tuple[InstanceId, ...] = ()
    """The instances that have it attached, running or stopped."""
    in_use: bool = False
    """It can't be deleted now. It may be in use for a while after its last instance is gone."""
    created_at: datetime | None = None
    ends_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeInventory:
    """What one listing of an account's volumes shows. `unreadable` and `sent_at` are as in Inventory."""

    volumes: Sequence[ListedVolume]
    unreadable: tuple[str, ...] = ()
    sent_at: float | None = None
