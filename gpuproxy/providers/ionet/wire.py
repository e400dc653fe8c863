"""Decoding of io.net's hardware and prices from the wire.

The rule: only fields for price and identity are required. Any other field may be missing, null or of an unexpected
type, and the row is still used. Fields that are not declared here are ignored.
Units: prices are dollars per hour for the whole configuration, and memory and disk are in GB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import msgspec

from gpuproxy.model.demands import MAX_GPUS
from gpuproxy.model.gpus import gpu_name, nominal_vram
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.offers import HostKey, Offer, OfferId, ProviderName
from gpuproxy.providers.decode import ABSURD, MOST_GPUS, MOST_VRAM_MB, Unreadable, decoded, typed
from gpuproxy.providers.ionet.configurations import Configuration

NAME = ProviderName("io.net")
PREFIX = "ionet"
_MOST_GB_PER_CARD = 1_000
"""A card with more memory than this has its memory in MB."""


class WireRow(msgspec.Struct, frozen=True):
    """One row of the hardware list. `id` is for display only; `deploy_id` is what is rented."""

    deploy_id: Any
    name: str
    num_cards: int
    price: float
    location: Any
    sold_out: bool | None = None
    available_replicas: int | None = None
    supplier: str | None = None
    vram_per_card: float | None = None
    interconnect: str | None = None
    nvlink: bool | None = None
    storage: float | None = None
    vcpu: float | None = None
    memory: float | None = None


class WireQuote(msgspec.Struct, frozen=True):
    """A price. The total is for the whole booking, fees included."""

    total_cost_usdc: float
    available_replica_count: Any = None


class _Envelope(msgspec.Struct, frozen=True):
    data: msgspec.Raw
    status: Any = None
    """Of the answer, not of a deployment: "failed" is a business failure."""
    error: Any = None


class _Hardware(msgspec.Struct, frozen=True):
    hardware: list[msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One rentable row."""

    configuration: Configuration
    row: WireRow
    price: Micro
    copies: int
    """How many can be rented at once; 1 if io.net does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A hardware list: the number of its rows, those that can be rented, and the number of unreadable ones."""

    rows: int
    listings: Sequence[Listing]
    undecodable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """The price of a booking."""

    total: Micro
    available: bool
    """False if io.net says that no such machine is free."""


def inside(body: bytes) -> msgspec.Raw:
    """The value of `data` in an answer. Raises one of Unreadable if there is none, or if the answer is a failure."""
    answer, _ = decoded(body, _Envelope)
    if answer.error or answer.status == "failed":
        raise msgspec.ValidationError("a failure")
    return answer.data


def read_hardware(body: bytes) -> Found:
    """Decode a hardware list, in both forms of its envelope. Raises one of Unreadable if the body is none."""
    data = bytes(inside(body))
    rows = decoded(data, list[msgspec.Raw])[0] if data.startswith(b"[") else decoded(data, _Hardware)[0].hardware
    listings: dict[Configuration, Listing] = {}
    undecodable = 0
    for raw in rows:
        try:
            found = _listing(typed(raw, WireRow, _ROWS)[0])
        except (*Unreadable, ValueError, OverflowError):
            undecodable += 1
            continue
        if found is not None:
            known = listings.get(found.configuration)
            if known is None or found.price > known.price:  # a create is never dearer than its offer
                listings[found.configuration] = found
    return Found(rows=len(rows), listings=tuple(listings.values()), undecodable=undecodable)


def read_quote(body: bytes) -> Quote:
    """Decode a price. Raises one of Unreadable if the body has none."""
    quote, _ = typed(inside(body), WireQuote, _QUOTES)
    if not isfinite(quote.total_cost_usdc) or not 0 < quote.total_cost_usdc < ABSURD:
        raise msgspec.ValidationError("no usable total")
    counts = quote.available_replica_count
    counts = counts if isinstance(counts, list) else [counts]
    none_free = bool(counts) and all(
        isinstance(each, int) and not isinstance(each, bool) and each <= 0 for each in counts
    )
    return Quote(total=micro(quote.total_cost_usdc), available=not none_free)


def offers_of(found: Found, seen: str, quoted: Mapping[Configuration, Micro], marks: Mapping[str, str]) -> list[Offer]:
    """The offers of a hardware list, cheapest first. `quoted`: prices per hour that io.net named for a booking.

    io.net shows no hosts and usually no free count. So one listing vouches for one machine of each hardware at each
    location, in any of its configurations: they share keys. The next listing, `seen` at another time, vouches anew.
    """
    offers = [
        _offer(each, copy, seen, max(each.price, quoted.get(each.configuration, Micro(0))), marks)
        for each in found.listings
        for copy in range(each.copies)
    ]
    return sorted(offers, key=lambda offer: offer.gpu_price)


def _listing(row: WireRow) -> Listing | None:
    """A rentable row; None for one of those that io.net shows but does not rent out. Raises ValueError."""
    if not isfinite(row.price) or not 0 <= row.price < ABSURD or not 0 <= row.num_cards <= MOST_GPUS:
        raise ValueError("an impossible price or number of cards")
    free = row.available_replicas
    if row.num_cards == 0 or micro(row.price) == 0 or row.sold_out or (free is not None and free <= 0):
        return None
    configuration = Configuration(hardware=_id(row.deploy_id), cards=row.num_cards, location=_id(row.location))
    configuration.native_id()  # raises for an id that no offer can have
    copies = 1 if free is None else max(1, min(free, MAX_GPUS // row.num_cards))
    return Listing(configuration=configuration, row=row, price=micro(row.price), copies=copies)


def _id(value: object) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError("no usable id")
    return value


def _offer(listing: Listing, copy: int, seen: str, price: Micro, marks: Mapping[str, str]) -> Offer:
    row, what = listing.row, listing.configuration
    first = copy * what.cards
    return Offer(
        id=OfferId(f"{PREFIX}-{what.native_id(copy)}"),
        provider=NAME,
        host=HostKey(f"{NAME}/{what.pool}"),
        machine_id=what.pool,
        gpu_model=gpu_name(row.name),
        num_gpus=what.cards,
        vram_gb=_vram(row.vram_per_card),
        gpu_price=price,
        disk_price_month=Micro(0),
        max_disk_gb=_positive(row.storage),
        location=str(what.location),
        verified=True,  # io.net has no such mark: each machine is its own or from a supplier that it chose
        conflict_keys=tuple(f"{what.pool}#{seen}.{card}" for card in range(first, first + what.cards)),
        cpu_cores=_positive(row.vcpu),
        ram_gb=_positive(row.memory),
        extras=_extras(row) | dict(marks),
    )


def _vram(memory: float | None) -> int:
    """The nominal memory in GB; 0 if it is missing or impossible."""
    size = _positive(memory)
    megabytes = size if size > _MOST_GB_PER_CARD else size * 1024
    return nominal_vram(megabytes) if megabytes <= MOST_VRAM_MB else 0


def _positive(number: float | None) -> float:
    """The number; 0 if it is missing or impossible."""
    return number if number is not None and 0 < number < inf else 0.0


def _extras(row: WireRow) -> dict[str, str]:
    named = {"supplier": row.supplier, "interconnect": row.interconnect, "hardware_id": str(row.deploy_id)}
    facts = {name: value for name, value in named.items() if value}
    return facts | ({} if row.nvlink is None else {"nvlink": str(row.nvlink).lower()})


_ROWS = msgspec.json.Decoder(WireRow, strict=False)
_QUOTES = msgspec.json.Decoder(WireQuote, strict=False)
