"""Decoding of vast.ai's offers from the wire.

The rule: only fields for price and identity are required. Any other field may be missing, null, a numeric string or of
an unexpected type, and the row is still used. Fields that are not declared here are ignored.
Units: `dph_*` are dollars per hour for the whole offer, memory is in MB, dates are seconds since 1970.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import inf
from typing import Any

import msgspec

from gpuproxy.model.gpus import gpu_name, nominal_ram, nominal_vram
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.offers import HostKey, Offer, OfferId, ProviderName
from gpuproxy.model.quick import quick
from gpuproxy.providers.decode import (
    ABSURD,
    MOST_GPUS,
    MOST_VRAM_MB,
    Unreadable,
    date,
    decoded,
    price,
    typed,
    whole_number,
)

NAME = ProviderName("vast.ai")
PREFIX = "vast"
_HEAD, _TAIL = re.compile(rb'\s*\{\s*"offers"\s*:\s*\['), re.compile(rb"\]\s*\}\s*\Z")
_LONGEST_TAIL = 64
_SLICE_BYTES = 64 * 1024
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
    avail_vol_size: float | None = None
    """GB."""


class SearchPage(msgspec.Struct, frozen=True):
    """An answer to a search. The rows are decoded one by one, so that a wrong one loses only itself."""

    offers: list[msgspec.Raw]
    success: Any = None
    error: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One search answer: the number of rows that the server sent, the offers, and where the next request begins."""

    rows: int
    offers: tuple[Offer, ...]
    undecodable: int
    last_price: float
    """The highest `dph_total`, in dollars per hour; -1 if there is none."""
    last_machine: int


def volume_id(value: object) -> InstanceId | None:
    """The id of a volume, "V.123", from that text or from its number; None for anything else."""
    number = whole_number(value.strip().removeprefix("V.") if isinstance(value, str) else value)
    return None if number is None else InstanceId(f"V.{number}")


def read_search(body: bytes, marks: Mapping[str, str]) -> Found:
    """Decode a search answer. Of rows with the same id, the one with the higher score is kept.

    `marks` are added to the extras of every offer. Raises one of Unreadable if the body is not a search answer.
    """
    shared = tuple(marks.items())
    scores: dict[int, float] = {}
    offers: dict[int, Offer] = {}
    rows = _rows(body)
    read: list[WireOffer] = []
    for wire in rows:
        try:
            offer = None if wire is None else _offer(wire, shared)
        except (ValueError, OverflowError):
            offer = None
        if wire is None or offer is None:
            continue
        read.append(wire)
        if wire.rentable is not False and not wire.is_bid:
            score = wire.score
            score = score if score and -inf < score < inf else 0.0
            if wire.id not in scores or score > scores[wire.id]:
                scores[wire.id], offers[wire.id] = score, offer
    return Found(
        rows=len(rows),
        offers=tuple(offers.values()),
        undecodable=len(rows) - len(read),
        last_price=max([wire.dph_total for wire in read], default=-1.0),
        last_machine=max([wire.machine_id for wire in read], default=-1),
    )


def _rows(body: bytes) -> Sequence[WireOffer | None]:
    """The rows of a search answer; None for one that can't be decoded. Raises one of Unreadable if it is no answer."""
    rows = _rows_in_slices(body)
    if rows is not None:
        return rows
    page, _ = decoded(body, SearchPage)
    if page.error or page.success is False:
        raise msgspec.ValidationError("a refusal, not the offers")
    return [_row(row) for row in page.offers]


def _rows_in_slices(body: bytes) -> list[WireOffer | None] | None:
    """The rows of `{"offers":[{...},{...}]}`, decoded in slices, so that others run in between. None for other bodies.

    The body is cut where `},{` stands. If a cut is in the middle of a row, or if anything else is wrong, a slice is not
    a valid JSON list. If all are valid, they have exactly the rows of the body, because JSON is read in one way only.
    """
    start, end = _HEAD.match(body), _TAIL.search(body, max(0, len(body) - _LONGEST_TAIL))
    if start is None or end is None:
        return None
    rows: list[WireOffer | None] = []
    view = memoryview(body)
    at, last = start.end(), end.start()
    while at < last:
        cut = body.find(b"},{", at + _SLICE_BYTES, last) + 1 or last
        piece = b"".join((b"[", view[at:cut], b"]"))
        at = cut + 1
        try:
            rows += _SLICES.decode(piece)
        except Unreadable:
            try:
                rows += map(_row, msgspec.json.decode(piece, type=list[msgspec.Raw]))
            except Unreadable:
                return None
    return rows


def _row(row: msgspec.Raw) -> WireOffer | None:
    try:
        return typed(row, WireOffer, _OFFERS)[0]
    except Unreadable:
        return None


def _offer(wire: WireOffer, marks: tuple[tuple[str, str], ...]) -> Offer:
    """The offer of a row. An optional number that is missing, infinite or NaN counts as 0.

    Those checks are written out here: as functions, they would take as long as decoding the row. Raises ValueError for
    an impossible price, memory or GPU count: clients and other processes get these numbers with 32 or 64 bits.
    """
    gpus, priced = wire.num_gpus, 0 <= wire.dph_base < ABSURD and 0 <= wire.storage_cost < ABSURD
    if not priced or not 0 <= wire.dph_total < ABSURD or not 0 <= wire.gpu_ram <= MOST_VRAM_MB:
        raise ValueError("impossible price or memory")
    if not 1 <= gpus <= MOST_GPUS:
        raise ValueError("impossible GPU count")
    machine, ids = str(wire.machine_id), wire.gpu_ids
    keys = tuple([f"m{machine}g{gpu}" for gpu in ids]) if ids else (f"m{machine}",)
    if ids and (len(keys) != gpus or len(set(keys)) != gpus):
        raise ValueError("the GPU ids repeat, or there is another number of them than of GPUs")
    reliability = wire.reliability2 if wire.reliability is None else wire.reliability
    share, disk, cuda = wire.gpu_frac, wire.disk_space, wire.cuda_max_good
    cap, cores, speed = wire.compute_cap, wire.cpu_cores_effective, wire.disk_bw
    down, up, space = wire.inet_down, wire.inet_up, wire.avail_vol_size
    return _new_offer(
        id=OfferId(f"{PREFIX}-{wire.id}"),
        provider=NAME,
        host=HostKey(f"{NAME}/{machine}"),
        machine_id=machine,
        gpu_model=gpu_name(wire.gpu_name),
        num_gpus=gpus,
        vram_gb=nominal_vram(wire.gpu_ram),
        gpu_price=micro(wire.dph_base),
        disk_price_month=_monthly(wire.storage_cost),
        max_disk_gb=disk if -inf < disk < inf else 0.0,
        host_gpus=round(gpus / share) if share and _SMALLEST_SHARE <= share <= 1 else 0,
        location=_place(wire.geolocation) if wire.geolocation else "",
        reliability_ppm=round(min(reliability, 1.0) * 1_000_000) if reliability and 0 < reliability < inf else 0,
        verified=wire.verification == "verified" or (wire.verification is None and wire.vericode == 1),
        cuda_max=cuda if cuda and -inf < cuda < inf else 0.0,
        conflict_keys=keys,
        expires_at=_end(wire.end_date),
        direct_ports=_ports(wire.direct_port_count),
        compute_cap=cap / 100 if cap and 0 < cap < inf else 0.0,
        cpu_cores=cores if cores and 0 < cores < inf else 0.0,
        ram_gb=_ram(wire.cpu_ram),
        disk_bandwidth=speed if speed and 0 < speed < inf else 0.0,
        inet_down=down if down and 0 < down < inf else 0.0,
        inet_up=up if up and 0 < up < inf else 0.0,
        inet_down_price=_traffic(wire.inet_down_cost),
        inet_up_price=_traffic(wire.inet_up_cost),
        volume_gb=space if space and 0 < space < inf else 0.0,
        extras=_extras(wire.host_id, wire.direct_port_count, wire.hosting_type, marks),
    )


def _ports(count: int | None) -> int | None:
    """The number of direct ports; None if it is missing or impossible."""
    return None if count is None or count < 0 else min(count, _ALL_PORTS)


_monthly = lru_cache(maxsize=4096)(micro)


@lru_cache(maxsize=4096)
def _end(epoch: float | None) -> datetime | None:
    """The end of the offer. All chunks of a machine have the same one."""
    return date(epoch)


@lru_cache(maxsize=4096)
def _ram(megabytes: float | None) -> float:
    return nominal_ram(megabytes) if megabytes and 0 < megabytes < inf else 0.0


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
_SLICES = msgspec.json.Decoder(list[WireOffer], strict=False)
_new_offer = quick(Offer)
