"""The hardware of the prepaid market: what can be booked, in which countries, at which price, and on which hosts.

A row is one configuration: a number of GPUs of one kind of hardware in one country, with a price for all of them. The
rows of one kind in one country share its hosts. Names, ids, sizes and prices follow replies of io.net of 2026.
"""

import random
from dataclasses import dataclass
from typing import Literal

HardwareId = int | str
Supplier = Literal["internal", "external"]
_FULL = 0.25  # share of the hosts on which other customers have some GPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of hardware. Sizes are those of a whole host."""

    id: HardwareId
    """A number or a text; a request must have the same type."""
    name: str
    cards: tuple[int, ...]
    """The numbers of GPUs with which it can be booked; 0: no GPU at all."""
    price: float
    """USD per hour for one GPU."""
    memory: int
    """GB per GPU."""
    places: tuple[str, ...]
    """Country codes."""
    supplier: Supplier = "internal"
    interconnect: str | None = None
    host_gpus: int = 8
    vcpu: int = 64
    ram_gb: int = 256
    storage_gb: int = 4000
    hosts: tuple[int, int] = (2, 5)
    """The smallest and largest number of hosts in a country; (0, 0): everything is sold out."""


@dataclass(slots=True, kw_only=True)
class Row:
    """One configuration. `price` is in USD per hour for all its GPUs, as the marketplace gives it: not rounded."""

    kind: Kind
    location: str
    cards: int
    price: float

    @property
    def id(self) -> str:
        """The id that is shown. Rows of several countries may have the same one."""
        return f"{self.kind.id}__{self.location if self.kind.supplier == 'external' else self.cards}"

    @property
    def bookable(self) -> bool:
        """False for the rows that only fill the list: without GPUs, or without a price."""
        return self.cards > 0 and self.price > 0

    def cost(self, hours: int, workers: int = 1) -> int:
        """The price of a booking in micro-dollars."""
        return round(self.price * hours * workers * 1_000_000)


@dataclass(slots=True, kw_only=True)
class Host:
    """One machine. Any free GPUs of it can be booked together."""

    id: str
    kind: HardwareId
    location: str
    gpus: int
    strangers: int = 0
    """GPUs that other customers, who aren't simulated, have."""
    rented: int = 0
    """GPUs that deployments have."""
    online: bool = True
    dead: bool = False
    """Its GPUs have failed."""
    broken: str = ""
    """How all new deployments fail here; "": they work."""

    @property
    def free(self) -> int:
        """The number of free GPUs; 0 while the host is not connected."""
        return max(0, self.gpus - self.strangers - self.rented) if self.online else 0


KINDS = (
    Kind(id=12, name="GeForce RTX 4090", cards=(1, 2, 4), price=0.30, memory=24, places=("US", "FI"), host_gpus=4,
         vcpu=39, ram_gb=125, storage_gb=2000, hosts=(4, 8)),
    Kind(id=3, name="GeForce RTX 3090", cards=(1, 2, 4), price=0.27, memory=24, places=("US", "CA"), host_gpus=4,
         vcpu=32, ram_gb=128, storage_gb=1000, hosts=(3, 6)),
    Kind(id="203", name="L40", cards=(1, 2, 4, 8), price=0.66, memory=48, places=("US", "DE"), vcpu=128, ram_gb=512),
    Kind(id=224, name="A100", cards=(1, 8), price=1.3125, memory=80, places=("US", "IS"), interconnect="sxm4",
         vcpu=192, ram_gb=1024),
    Kind(id="H100_sxm5", name="H100", cards=(1,), price=2.19, memory=80, places=("US",), supplier="external",
         interconnect="sxm5", host_gpus=1, vcpu=26, ram_gb=200, storage_gb=1000),
    Kind(id="gpu_4x_h100", name="H100", cards=(4,), price=2.49, memory=80, places=("CA", "US"), supplier="external",
         interconnect="pcie", host_gpus=4, vcpu=104, ram_gb=900, storage_gb=3000, hosts=(1, 3)),
    Kind(id="8H100.80S.176V", name="H100", cards=(8,), price=27.875342465753423 / 8, memory=80, places=("FI", "IS"),
         supplier="external", interconnect="sxm5", vcpu=176, ram_gb=1480, storage_gb=2000, hosts=(1, 3)),
    Kind(id="B200_sxm6x8", name="B200", cards=(8,), price=4.99, memory=192, places=("US", "AU"), supplier="external",
         interconnect="sxm6", vcpu=208, ram_gb=2900, storage_gb=22528, hosts=(1, 2)),
    Kind(id="8B300.240V", name="B300", cards=(8,), price=63.86 / 8, memory=288, places=("FI",), supplier="external",
         interconnect="sxm6", vcpu=240, ram_gb=3800, storage_gb=8000, hosts=(0, 0)),
    Kind(id="cpu_16v", name="AMD EPYC", cards=(0,), price=0.0, memory=0, places=("US",), supplier="external",
         host_gpus=0, vcpu=16, ram_gb=64, storage_gb=200),
    Kind(id=77, name="RTX 6000 Ada", cards=(1,), price=0.0, memory=48, places=("DE",), host_gpus=1, vcpu=32,
         ram_gb=128, storage_gb=1000),
)  # fmt: skip
PLACES = {"US": "United States", "CA": "Canada", "FI": "Finland", "DE": "Germany", "IS": "Iceland", "AU": "Australia"}
PLACE_NUMBERS = {code: 7 + 2 * number for number, code in enumerate(PLACES)}
"""The numbers of the countries in the older calls."""


def rows() -> list[Row]:
    """All configurations, at their first prices."""
    made = []
    for kind in KINDS:
        for cards in kind.cards:
            made += [Row(kind=kind, location=place, cards=cards, price=kind.price * cards) for place in kind.places]
    return made


def hosts(seed: int) -> list[Host]:
    """All hosts; on some of them other customers have GPUs."""
    made = []
    for kind in KINDS:
        for place in kind.places:
            rng = random.Random(f"{seed}:prepaid:{kind.id}:{place}")
            for number in range(rng.randint(*kind.hosts)):
                held = rng.randint(1, kind.host_gpus) if kind.host_gpus and number and rng.random() < _FULL else 0
                name = f"{kind.id}-{place}-{number + 1}".replace(".", "-")
                made.append(Host(id=name, kind=kind.id, location=place, gpus=kind.host_gpus, strangers=held))
    return made
