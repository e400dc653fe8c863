"""Machines and their chunks: the GPUs of each offer, its price, and which GPUs are in use.

A machine has one offer (ask) for each chunk. Chunks overlap: renting one makes all others with a common GPU
unrentable. GPUs in use are bits of one integer per machine, so that a check needs a single `&`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count as numbers
from typing import TypeVar

from gpuproxy.sandbox.market import hardware
from gpuproxy.sandbox.market.hardware import Model, Shape

T = TypeVar("T")
Column = str | int | float | bool | list[int] | None
_DAY = 86400.0
_BLACKWELL = 1000  # compute capability x 100 that needs a new driver


@dataclass(slots=True, kw_only=True)
class Chunk:
    """One offer (ask): some GPUs of a machine. `price` is in micro-dollars per hour for all of them, without disk."""

    machine: "Machine"
    mask: int
    gpus: int
    offer_id: int
    price: int
    columns: dict[str, Column]
    """The constant columns, by the names of the API."""

    @property
    def rentable(self) -> bool:
        """True if all GPUs are free, and the host is connected and has not left the market."""
        return self.machine.online and not self.machine.left and not self.mask & self.machine.held

    @property
    def min_bid(self) -> int:
        """The minimum bid in micro-dollars per hour."""
        return self.price * 5 // 6


@dataclass(slots=True, kw_only=True)
class Machine:
    """One machine. `storage` is in micro-dollars per GB and month; `columns` are common to all its offers."""

    id: int
    gpus: int
    storage: int
    columns: dict[str, Column]
    chunks: list[Chunk] = field(default_factory=list)
    rented: int = 0
    """Bits of the GPUs that instances have."""
    strangers: int = 0
    """Bits of the GPUs that other customers, who aren't simulated, have."""
    dead: int = 0
    """Bits of the GPUs that have failed."""
    leaves: bool = False
    """The host does not extend its offers."""
    left: bool = False
    """The host's offers have ended."""
    online: bool = True
    broken: str = ""
    """How all new instances fail here: one of WAYS_TO_BREAK; "": they work."""
    broken_message: str = ""
    """The message of a host_fault here; "": the usual one."""

    @property
    def held(self) -> int:
        """Bits of the GPUs that are in use."""
        return self.rented | self.strangers

    @property
    def direct_ports(self) -> int:
        """The number of ports that the host can map for one instance; 0: it maps none."""
        return int(str(self.columns["direct_port_count"]))

    def take(self, wanted: int) -> int:
        """Let another customer take up to `wanted` free GPUs, smallest chunks first; returns their bits."""
        taken = 0
        for chunk in sorted(self.chunks, key=lambda chunk: (chunk.gpus, chunk.mask)):
            if taken.bit_count() + chunk.gpus <= wanted and not chunk.mask & (self.held | taken):
                taken |= chunk.mask
        self.strangers |= taken
        return taken

    def offer_longer(self, now: float) -> bool:
        """If the offers end within a week, extend them by half a year or more; True if they were extended."""
        until = float(str(self.columns["end_date"]))
        if self.leaves or until >= now + 7 * _DAY:
            return False
        self.columns["end_date"] = until + (1 + (now + 7 * _DAY - until) // (180 * _DAY)) * 180 * _DAY
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """The description from which a machine is built. Sizes are those of the whole machine."""

    id: int
    model: Model
    gpus: int
    tiles: Sequence[tuple[int, int]]
    """(first GPU, GPUs) of each chunk."""
    price_per_gpu: int
    """In micro-dollars per hour."""
    storage: int
    """In micro-dollars per GB and month."""
    cpu_name: str
    cpu_ghz: float
    cpu_cores: int
    ram_mb: int
    disk_gb: float
    disk_bw: float
    inet_down: float
    inet_up: float
    inet_down_tb: float
    """In USD per TB."""
    inet_up_tb: float
    pcie_bw: float
    mobo_name: str
    place: str
    host_id: int
    verified: bool
    reliability: float
    driver: tuple[str, float]
    end_date: float
    direct_ports: int | None = None
    """None: as many as usual."""
    leaves: bool = False
    """The host does not extend its offers after the end date."""


@lru_cache(maxsize=16)  # a simulation builds the same market thousands of times
def invented(seed: int, count: int, now: float) -> tuple[Blueprint, ...]:
    """The machines of the built-in market. For one seed they are always the same, whatever `count` is."""
    hosts = _Hosts(seed, count)
    made = []
    for index in range(count):
        rng = random.Random(f"{seed}:machine:{index}")
        model = weighted(rng, [(model, model.weight) for model in hardware.MODELS])
        shapes = hardware.DATACENTER_SHAPES if model.datacenter else hardware.HOME_SHAPES
        shape = weighted(rng, [(shape, shape.weight) for shape in shapes])
        made.append(_blueprint(rng, 10_000 + index * 7 + rng.randrange(7), model, shape, hosts.pick(rng), now=now))
    return tuple(made)


def tiles(first: int, gpus: int, smallest: int) -> Iterator[tuple[int, int]]:
    """The chunks of a block: the block, then the chunks of its two parts.

    The first part has a power of two of smallest chunks.
    """
    yield first, gpus
    if gpus <= smallest:
        return
    left = smallest << ((-(-gpus // smallest) - 1).bit_length() - 1)
    yield from tiles(first, left, smallest)
    yield from tiles(first + left, gpus - left, smallest)


def weighted(rng: random.Random, choices: Sequence[tuple[T, int]]) -> T:
    """A random choice by weight."""
    return rng.choices([choice for choice, _ in choices], [weight for _, weight in choices])[0]


def build(blueprint: Blueprint, offer_ids: "numbers[int]", gpu_ids: "numbers[int]") -> Machine:
    """A machine with all its chunks; no GPU is in use."""
    ids = [next(gpu_ids) for _ in range(blueprint.gpus)]
    machine = Machine(
        id=blueprint.id,
        gpus=blueprint.gpus,
        storage=blueprint.storage,
        columns=_machine_columns(blueprint),
        leaves=blueprint.leaves,
    )
    machine.columns["avail_vol_ask_id"] = next(offer_ids)
    for first, gpus in blueprint.tiles:
        machine.chunks.append(
            Chunk(
                machine=machine,
                mask=((1 << gpus) - 1) << first,
                gpus=gpus,
                offer_id=next(offer_ids),
                price=blueprint.price_per_gpu * gpus,
                columns=_chunk_columns(blueprint, ids[first : first + gpus]),
            )
        )
    return machine


class _Hosts:
    """Owners of machines, with about three machines each; all machines of an owner have one location."""

    def __init__(self, seed: int, machines: int) -> None:
        self._seed = seed
        self._count = max(1, machines // 3)

    def pick(self, rng: random.Random) -> tuple[int, str]:
        host = 3_000 + 97 * rng.randrange(self._count)
        return host, weighted(random.Random(f"{self._seed}:host:{host}"), hardware.PLACES)


def _blueprint(
    rng: random.Random, machine_id: int, model: Model, shape: Shape, host: tuple[int, str], *, now: float
) -> Blueprint:
    host_id, place = host
    cpu_name, cpu_ghz = rng.choice(hardware.PROCESSORS)
    traffic = rng.choice((0.0, 1.3333, 2.6667, 5.3333, 8.0))
    new = model.compute_cap >= _BLACKWELL
    return Blueprint(
        id=machine_id,
        model=model,
        gpus=shape.gpus,
        tiles=tuple(tiles(0, shape.gpus, shape.smallest)),
        price_per_gpu=round(rng.triangular(model.low, model.high, model.median) * 10_000) * 100,
        storage=rng.choice((66_667, 100_000, 133_333, 150_000, 200_000, 266_667)),
        cpu_name=cpu_name,
        cpu_ghz=cpu_ghz,
        cpu_cores=shape.gpus * rng.choice((8, 12, 16, 24)),
        ram_mb=shape.gpus * rng.choice((32_000, 48_000, 64_000, 96_000)),
        disk_gb=float(shape.gpus * rng.randrange(120, 900)),
        disk_bw=float(rng.randrange(400, 6000)),
        inet_down=round(rng.uniform(80, 8000), 1),
        inet_up=round(rng.uniform(40, 6000), 1),
        inet_down_tb=traffic,
        inet_up_tb=traffic,
        pcie_bw=rng.choice((5.8, 11.7, 12.0, 24.5, 25.1, 52.1)),
        mobo_name=rng.choice(("H12SSL-NT", "ROME2D32GM-2T", "Z10PA-D8 Series", "B650 EAGLE AX", "0VCHW8")),
        place=place,
        host_id=host_id,
        verified=rng.random() < 0.88,
        reliability=round(min(0.9999, rng.betavariate(40, 1)), 6),
        driver=rng.choice(hardware.DRIVERS[-3:] if new else hardware.DRIVERS),
        end_date=round(now + rng.uniform(30, 365) * _DAY),
    )


def _machine_columns(made: Blueprint) -> dict[str, Column]:
    model = made.model
    driver, cuda = made.driver
    return {
        "machine_id": made.id,
        "host_id": made.host_id,
        "gpu_name": model.name,
        "gpu_ram": model.memory_mb,
        "gpu_arch": "nvidia",
        "gpu_display_active": False,
        "gpu_lanes": 16,
        "gpu_mem_bw": model.bandwidth,
        "gpu_max_power": float(model.watts),
        "gpu_max_temp": 92.0,
        "bw_nvlink": 300.0 if "SXM" in model.name else 0.0,
        "compute_cap": model.compute_cap,
        "cuda_max_good": cuda,
        "driver_version": driver,
        "driver_vers": driver_number(driver),
        "cpu_arch": "amd64",
        "cpu_name": made.cpu_name,
        "cpu_ghz": made.cpu_ghz,
        "cpu_cores": made.cpu_cores,
        "has_avx": 1,
        "mobo_name": made.mobo_name,
        "os_version": "22.04",
        "pci_gen": 4.0,
        "pcie_bw": made.pcie_bw,
        "disk_bw": made.disk_bw,
        "disk_name": "nvme",
        **_network_columns(made),
        **_trust_columns(made),
        "storage_cost": made.storage / 1_000_000,
        "avail_vol_size": float(int(made.disk_gb * 0.8)),
        "avail_vol_dph": made.storage / 1_000_000 / 720,
        "resource_type": "gpu",
        "end_date": made.end_date,
        "start_date": None,
        **dict.fromkeys(_EMPTY_COLUMNS),
    }


_EMPTY_COLUMNS = (
    "bundled_results",
    "cluster_id",
    "external",
    "hostname",
    "nw_disk_avg_bw",
    "nw_disk_max_bw",
    "nw_disk_min_bw",
    "sla_broker_rate",
    "sla_sigma_x",
    "webpage",
)


def _network_columns(made: Blueprint) -> dict[str, Column]:
    return {
        "inet_down": made.inet_down,
        "inet_up": made.inet_up,
        "internet_down_cost_per_tb": made.inet_down_tb,
        "internet_up_cost_per_tb": made.inet_up_tb,
        "inet_down_cost": made.inet_down_tb / 1024,
        "inet_up_cost": made.inet_up_tb / 1024,
        "direct_port_count": (99 if made.gpus < 8 else 399) if made.direct_ports is None else made.direct_ports,
        "static_ip": made.model.datacenter,
        "public_ipaddr": "127.0.0.1",
        "geolocation": made.place,
        "geolocode": _geolocode(made.place),
        "hosting_type": int(made.model.datacenter),
    }


def _trust_columns(made: Blueprint) -> dict[str, Column]:
    return {
        "reliability": made.reliability,
        "reliability2": made.reliability,
        "reliability_mult": round(made.reliability**8, 7),
        "expected_reliability": 0.0,
        "target_reliability": 0.0,
        "sla_r_claim": 0.0,
        "verification": "verified" if made.verified else "unverified",
        "vericode": int(made.verified),
        "is_vm_deverified": False,
        "vms_enabled": False,
        "credit_discount_max": 0.0,
        "discount_rate": 0.0,
        "discounted_hourly": 0.0,
        "logo": "/static/logos/vastai_small2.png",
        "rn": 1,
        "time_remaining": "",
        "time_remaining_isbid": "",
    }


def _chunk_columns(made: Blueprint, gpu_ids: list[int]) -> dict[str, Column]:
    gpus = len(gpu_ids)
    share = gpus / made.gpus
    return {
        "num_gpus": gpus,
        "gpu_frac": share,
        "gpu_ids": gpu_ids,
        "gpu_total_ram": made.model.memory_mb * gpus,
        "bundle_id": 1_500_000_000 + made.id * 16 + gpus,
        "cpu_cores_effective": round(made.cpu_cores * share, 2),
        "cpu_ram": int(made.ram_mb * share),
        "disk_space": round(made.disk_gb * share, 1),
        "dlperf": made.model.dlperf * gpus,
        "total_flops": made.model.tflops * gpus,
    }


def driver_number(version: str) -> int:
    """A driver version as a number for comparisons: 570.124.04 is 570124004."""
    parts = [int(part) for part in version.split(".") if part.isdigit()] + [0, 0]
    return parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]


def _geolocode(place: str) -> int:
    return int.from_bytes(place[-2:].encode()) * 7919
