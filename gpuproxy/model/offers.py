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
_CODE = 2
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
    """When the marketplace ends the offer, and what was rented of it; None: unknown."""
    direct_ports: int | None = None
    """Ports of the host that can be mapped directly; None: unknown."""
    compute_cap: float = 0.0
    """CUDA compute capability (8.9). Of this and the following numbers, 0 means unknown."""
    cpu_cores: float = 0.0
    """Of the offer's share of the machine, like `ram_gb`."""
    ram_gb: float = 0.0
    """Nominal: see `gpus.nominal_ram`."""
    disk_bandwidth: float = 0.0
    """MB/s."""
    inet_down: float = 0.0
    """Mb/s."""
    inet_up: float = 0.0
    """Mb/s."""
    inet_down_price: Micro | None = None
    """Per GB, billed in addition to the price; None: unknown."""
    inet_up_price: Micro | None = None
    """Per GB."""
    volume_gb: float = 0.0
    """Free space for volumes on the host, in GB; 0: none, or unknown."""
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

    def lasts_until(self, moment: datetime) -> bool:
        """False if it is known to end before `moment`."""
        return self.expires_at is None or self.expires_at >= moment


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
    cuda_assumed: bool = False
    """`min_cuda` was read from the image: hosts whose CUDA version is unknown pass."""
    min_compute_cap: float = 0.0
    """Offers whose compute capability is unknown pass."""
    ports: int = 0
    """The number of ports to be mapped. Offers whose number of direct ports is unknown pass."""
    min_cpu_cores: float = 0.0
    """Of this and the following bounds: an offer whose number is unknown does not pass."""
    min_ram_gb: float = 0.0
    min_disk_bandwidth: float = 0.0
    """MB/s."""
    min_inet_down: float = 0.0
    """Mb/s."""
    min_inet_up: float = 0.0
    """Mb/s."""
    max_traffic_price: float | None = None
    """USD per GB, in both directions; 0 finds free traffic only, None means no bound."""
    num_gpus: int = 0
    disk_gb: float = DEFAULT_DISK_GB
    exclude_hosts: frozenset[str] = frozenset()
    """Host keys or bare machine ids."""
    machine_ids: frozenset[str] = frozenset()
    """The marketplace's ids of the only hosts; empty: all."""
    offer_id: OfferId | None = None

    def at_any_price(self) -> "OfferFilter":
        """The same without its bound on the price."""
        return replace(self, max_price=HIGHEST_PRICE)

    @property
    def asked_cuda(self) -> tuple[float, bool]:
        """The lowest CUDA version, and whether a host passes whose version is unknown."""
        return self.min_cuda, self.cuda_assumed

    def ceiling(self, num_gpus: int) -> Micro:
        """The most that `num_gpus` may cost per hour; an offer at exactly this price passes."""
        return micro(Decimal(str(self.max_price)) * num_gpus)

    def rejects(self, offer: Offer, until: datetime | None = None) -> str:
        """The name of the first rule that `offer` breaks, "" when it passes: decision records count these.

        `until` is the time until which the offer must last; None: its end does not matter. It is no field, because it
        moves with the clock: equal filters share cached answers.
        """
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
        if self.machine_ids and offer.machine_id not in self.machine_ids:
            return "machine_ids"
        if self.verified_only and not offer.verified:
            return "verified_only"
        return self._rejects_detail(offer) or self._rejects_machine(offer) or self._rejects_end(offer, until)

    def _rejects_detail(self, offer: Offer) -> str:
        if self.gpu_model and not gpu_matches(self.gpu_model, offer.gpu_model):
            return "gpu_model"
        if self.location and not location_matches(self.location, offer.location):
            return "location"
        if offer.reliability_ppm < round(self.min_reliability * 1_000_000):
            return "min_reliability"
        if not suits_cuda(self.asked_cuda, offer.cuda_max):
            return "min_cuda"
        if not suits_compute_cap(self.min_compute_cap, offer.compute_cap):
            return "compute_cap"
        if offer.max_disk_gb < self.disk_gb:
            return "disk_gb"
        if self.exclude_hosts and not self.exclude_hosts.isdisjoint((offer.host, offer.machine_id)):
            return "exclude_hosts"
        return ""

    def _rejects_machine(self, offer: Offer) -> str:
        if not suits_ports(self.ports, offer.direct_ports):
            return "ports"
        for rule, fact in LOWER_BOUNDS.items():
            if getattr(offer, fact) < getattr(self, rule):
                return rule
        if self.max_traffic_price is not None and not self.suits_traffic(offer):
            return "max_traffic_price"
        return ""

    def _rejects_end(self, offer: Offer, until: datetime | None) -> str:
        return "" if until is None or offer.lasts_until(until) else ENDS_TOO_SOON

    def suits_traffic(self, offer: Offer) -> bool:
        """Whether traffic of the offer costs at most `max_traffic_price`, down and up."""
        limit = micro(Decimal(str(self.max_traffic_price or 0)))
        down, up = offer.inet_down_price, offer.inet_up_price
        return down is not None and up is not None and max(down, up) <= limit


LOWER_BOUNDS: Mapping[str, str] = {
    "min_cpu_cores": "cpu_cores",
    "min_ram_gb": "ram_gb",
    "min_disk_bandwidth": "disk_bandwidth",
    "min_inet_down": "inet_down",
    "min_inet_up": "inet_up",
}
"""The fields of OfferFilter that are lower bounds of a field of Offer whose 0 means unknown."""
ENDS_TOO_SOON = "ends_too_soon"
"""The rule that an offer breaks if it ends before the machine would be given back."""


def suits_cuda(asked: tuple[float, bool], cuda_max: float) -> bool:
    """Whether a host with this newest CUDA version passes. `asked` is `OfferFilter.asked_cuda`."""
    least, unknown_passes = asked
    return cuda_max >= least or (unknown_passes and not cuda_max)


def suits_compute_cap(least: float, compute_cap: float) -> bool:
    """Whether a GPU of this compute capability passes; 0 is unknown, and passes."""
    return compute_cap >= least or not compute_cap


def suits_ports(asked: int, direct_ports: int | None) -> bool:
    """Whether a host with so many direct ports passes; None is unknown, and passes."""
    return direct_ports is None or direct_ports >= asked


def country_of(location: str) -> str:
    """The two-letter country code that ends a location ("Texas, US"), in upper case; "" without one."""
    code = location.rpartition(",")[2].strip()
    return code.upper() if len(code) == _CODE and code.isascii() and code.isalpha() else ""


def location_matches(wanted: str, location: str) -> bool:
    """A two-letter country code matches the code that ends a location ("Texas, US"); other text matches any part."""
    if len(wanted) == 2:
        return location.rpartition(",")[2].strip().casefold() == wanted.casefold()
    return wanted.casefold() in location.casefold()
