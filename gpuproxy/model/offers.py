"""What a marketplace would rent right now, and what a caller is looking for.

An offer is short-lived and consumed by renting, so everything that must outlive it hangs on its `host`.
Prices depend on the disk that will be rented with the GPUs: ask `Offer.price`, never add things up elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import NewType

from gpuproxy.model.gpus import gpu_matches
from gpuproxy.model.money import HOURS_PER_MONTH, Micro, micro

ProviderName = NewType("ProviderName", str)
"""As clients write it: "io.net"."""
AccountKey = tuple[ProviderName, str]
"""An account: its marketplace, and its name there, which is never the key that it is used with."""
OfferId = NewType("OfferId", str)
"""With the provider's prefix ("ionet-123"), so that it can't be taken for a contract."""
HostKey = NewType("HostKey", str)
"""`provider/machine_id`, or `provider/region/model` where the marketplace hides its hosts."""

DEFAULT_DISK_GB = 50
HIGHEST_PRICE = 1_000_000.0
"""USD per GPU-hour: the most that a request may name. An offer that costs more is never found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One thing that can be rented: a chunk of a host. Units are in the names; `gpu_model` is the printed name."""

    id: OfferId
    provider: ProviderName
    host: HostKey
    machine_id: str
    gpu_model: str
    num_gpus: int
    vram_gb: int
    """Nominal, per GPU."""
    gpu_price: Micro
    """Per hour for all GPUs of the offer, without disk."""
    disk_price_month: Micro
    """Per GB and month."""
    max_disk_gb: float
    host_gpus: int = 0
    """GPUs of the whole host; 0 where the marketplace does not say."""
    location: str = ""
    reliability_ppm: int = 0
    verified: bool = False
    cuda_max: float = 0.0
    conflict_keys: tuple[str, ...] = ()
    """Offers that share a key exclude each other: the ids of the GPUs where they are known, else the machine.

    Empty where one offer can be rented many times.
    """
    expires_at: datetime | None = None
    extras: Mapping[str, str] = field(default_factory=dict)
    """Provider-specific facts for `GPUInstance.metadata`."""

    def price(self, disk_gb: float) -> Micro:
        """Micro-dollars per hour, all-in: the GPUs and `disk_gb` of disk."""
        return Micro(self.gpu_price + round(self.disk_price_month * disk_gb / HOURS_PER_MONTH))

    def lowest_limit(self, disk_gb: float) -> Micro:
        """The lowest price per GPU-hour, in whole micro-dollars, that lets it pass."""
        return Micro(-(-self.price(disk_gb) // self.num_gpus))

    def native_id(self) -> str:
        """The marketplace's own id."""
        return self.id.partition("-")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferFilter:
    """What an offer must satisfy; the zero of a field means no bound, but for `max_price`."""

    providers: frozenset[ProviderName] = frozenset()
    """Empty: all."""
    min_vram: float = 0.0
    max_price: float = 0.0
    """USD per GPU-hour, all-in; always set by who builds the filter (0 finds free offers only)."""
    gpu_model: str = ""
    location: str = ""
    verified_only: bool = True
    min_reliability: float = 0.0
    min_cuda: float = 0.0
    num_gpus: int = 0
    disk_gb: float = DEFAULT_DISK_GB
    exclude_hosts: frozenset[str] = frozenset()
    """Host keys or bare machine ids."""
    offer_id: OfferId | None = None

    def at_any_price(self) -> "OfferFilter":
        """The same without its bound on the price."""
        return replace(self, max_price=HIGHEST_PRICE)

    def ceiling(self, num_gpus: int) -> Micro:
        """The most that `num_gpus` may cost per hour; an offer at exactly this price passes."""
        return micro(Decimal(str(self.max_price)) * num_gpus)

    def rejects(self, offer: Offer) -> str:
        """The name of the first rule that `offer` breaks, "" when it passes: decision records count these."""
        if self.providers and offer.provider not in self.providers:
            return "provider"
        if self.offer_id is not None and offer.id != self.offer_id:
            return "offer"
        if offer.vram_gb < self.min_vram:
            return "min_vram"
        if offer.price(self.disk_gb) > self.ceiling(offer.num_gpus):
            return "max_price"
        if self.num_gpus and offer.num_gpus != self.num_gpus:
            return "num_gpus"
        if self.verified_only and not offer.verified:
            return "verified_only"
        return self._rejects_detail(offer)

    def _rejects_detail(self, offer: Offer) -> str:
        if self.gpu_model and not gpu_matches(self.gpu_model, offer.gpu_model):
            return "gpu_model"
        if self.location and not location_matches(self.location, offer.location):
            return "location"
        if offer.reliability_ppm < round(self.min_reliability * 1_000_000):
            return "min_reliability"
        if offer.cuda_max < self.min_cuda:
            return "min_cuda"
        if offer.max_disk_gb < self.disk_gb:
            return "disk_gb"
        if self.exclude_hosts and not self.exclude_hosts.isdisjoint((offer.host, offer.machine_id)):
            return "exclude_hosts"
        return ""


def location_matches(wanted: str, location: str) -> bool:
    """A two-letter country code matches the code that ends a location ("Texas, US"); other text matches any part."""
    if len(wanted) == 2:
        return location.rpartition(",")[2].strip().casefold() == wanted.casefold()
    return wanted.casefold() in location.casefold()
