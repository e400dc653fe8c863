"""Decoding of vast.ai's offers from the wire.

The rule: only fields for price and identity are required. Any other field may be missing, null, a numeric string or of
an unexpected type, and the row is still used. Fields that are not declared here are ignored.
Units: `dph_*` are dollars per hour for the whole offer, memory is in MB, dates are seconds since 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite

import msgspec

from gpuproxy.model.gpus import gpu_name, nominal_ram, nominal_vram
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.offers import HostKey, Offer, OfferId, ProviderName
from gpuproxy.providers.vast.decode import ABSURD, Unreadable, date, decoded, price, typed

NAME = ProviderName("vast.ai")
PREFIX = "vast"
_ALL_PORTS = 65_535
_SMALLEST_SHARE = 0.001
"""The smallest plausible share of a machine's GPUs."""


class WireOffer(msgspec.Struct, frozen=True, gc=False):
    """One row of a search."""

    id: int
    machine_id: int
    gpu_name: str
    num_gpus: int
    gpu_ram: float
    dph_base: float
    dph_total: float
    storage_cost: float
    disk_space: float
    gpu_ids: list[int | str] | None = None
    gpu_frac: float | None = None
    geolocation: str | None = None
    reliability: float | None = None
    reliability2: float | None = None
    verification: str | None = None
    vericode: int | None = None
    cuda_max_good: float | None = None
    end_date: float | None = None
    rentable: bool | None = None
    is_bid: bool | None = None
    score: float | None = None
    host_id: int | str | None = None
    direct_port_count: int | None = None
    hosting_type: int | None = None
    compute_cap: float | None = None
    """Times 100: 890 is 8.9."""
    cpu_cores_effective: float | None = None
    cpu_ram: float | None = None
    """MB; like `cpu_cores_effective`, of the offer's share of the machine."""
    disk_bw: float | None = None
    """MB/s."""
    inet_down: float | None = None
    """Mb/s."""
    inet_up: float | None = None
    """Mb/s."""
    inet_down_cost: float | None = None
    """Dollars per GB."""
    inet_up_cost: float | None = None
    """Dollars per GB."""


class SearchPage(msgspec.Struct, frozen=True):
    """An answer to a search. The rows are decoded one by one, so that a wrong one loses only itself."""

    offers: list[msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One search answer: the number of rows that the server sent, the offers, and where the next request begins."""

    rows: int
    offers: tuple[Offer, ...]
    undecodable: int
    last_price: float
    """The highest `dph_total`, in dollars per hour; -1 if there is none."""
    last_machine: int


def read_search(body: bytes, marks: Mapping[str, str]) -> Found:
    """Decode a search answer. Of rows with the same id, the one with the higher score is kept.

    `marks` are added to the extras of every offer. Raises one of Unreadable if the body is not a search answer.
    """
    rows = decoded(body, SearchPage)[0].offers
    shared = tuple(marks.items())
    scores: dict[int, float] = {}
    offers: dict[int, Offer] = {}
    last_price, last_machine, undecodable = -1.0, -1, 0
    for row in rows:
        try:
            wire, _ = typed(row, WireOffer, _OFFERS)
            offer = _offer(wire, shared)
        except (*Unreadable, ValueError, OverflowError):
            undecodable += 1
            continue
        last_price = max(last_price, wire.dph_total)
        last_machine = max(last_machine, wire.machine_id)
        score = _sound(wire.score)
        if wire.rentable is not False and not wire.is_bid and score > scores.get(wire.id, -inf):
            scores[wire.id], offers[wire.id] = score, offer
    return Found(
        rows=len(rows),
        offers=tuple(offers.values()),
        undecodable=undecodable,
        last_price=last_price,
        last_machine=last_machine,
    )


def _offer(wire: WireOffer, marks: tuple[tuple[str, str], ...]) -> Offer:
    if wire.num_gpus < 1 or wire.dph_base < 0 or wire.storage_cost < 0 or not 0 <= wire.dph_total < ABSURD:
        raise ValueError("impossible price or GPU count")
    machine = str(wire.machine_id)
    reliability = wire.reliability2 if wire.reliability is None else wire.reliability
    share = _sound(wire.gpu_frac)
    return Offer(
        id=OfferId(f"{PREFIX}-{wire.id}"),
        provider=NAME,
        host=HostKey(f"{NAME}/{machine}"),
        machine_id=machine,
        gpu_model=gpu_name(wire.gpu_name),
        num_gpus=wire.num_gpus,
        vram_gb=nominal_vram(wire.gpu_ram),
        gpu_price=micro(wire.dph_base),
        disk_price_month=micro(wire.storage_cost),
        max_disk_gb=_sound(wire.disk_space),
        host_gpus=round(wire.num_gpus / share) if _SMALLEST_SHARE <= share <= 1 else 0,
        location=_place(wire.geolocation or ""),
        reliability_ppm=round(_sound(reliability) * 1_000_000),
        verified=wire.verification == "verified" or (wire.verification is None and wire.vericode == 1),
        cuda_max=_sound(wire.cuda_max_good),
        conflict_keys=tuple([f"m{machine}g{gpu}" for gpu in wire.gpu_ids]) if wire.gpu_ids else (f"m{machine}",),
        expires_at=date(wire.end_date),
        direct_ports=_ports(wire.direct_port_count),
        compute_cap=_amount(wire.compute_cap) / 100,
        cpu_cores=_amount(wire.cpu_cores_effective),
        ram_gb=_ram(wire.cpu_ram),
        disk_bandwidth=_amount(wire.disk_bw),
        inet_down=_amount(wire.inet_down),
        inet_up=_amount(wire.inet_up),
        inet_down_price=_traffic(wire.inet_down_cost),
        inet_up_price=_traffic(wire.inet_up_cost),
        extras=_extras(wire.host_id, wire.direct_port_count, wire.hosting_type, marks),
    )


def _sound(number: float | None) -> float:
    """The number; 0 if it is missing, infinite or NaN."""
    return number if number is not None and isfinite(number) else 0.0


def _amount(number: float | None) -> float:
    """The number; 0 if it is missing or can't be an amount."""
    return number if number is not None and isfinite(number) and number > 0 else 0.0


def _ports(count: int | None) -> int | None:
    """The number of direct ports; None if it is missing or impossible."""
    return None if count is None or count < 0 else min(count, _ALL_PORTS)


@lru_cache(maxsize=4096)
def _ram(megabytes: float | None) -> float:
    return nominal_ram(_amount(megabytes))


@lru_cache(maxsize=4096)
def _traffic(dollars: float | None) -> Micro | None:
    """The price per GB; None if it is missing or impossible."""
    return price(dollars)


@lru_cache(maxsize=4096)
def _place(raw: str) -> str:
    """The location. `", US"` has a country but no state."""
    return raw.strip(" ,")


@lru_cache(maxsize=4096)
def _extras(
    owner: int | str | None, direct_ports: int | None, hosting: int | None, marks: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    """Extra facts of an offer. Offers with the same facts share one mapping."""
    named = {"host_account": owner, "direct_ports": direct_ports, "datacenter": hosting}
    return {name: str(value) for name, value in named.items() if value is not None} | dict(marks)


_OFFERS = msgspec.json.Decoder(WireOffer, strict=False)
