"""vast.ai's offer search: the columns of an offer, including those that are computed for the query.

A row is joined from bytes that are encoded once per machine and once per chunk. Only columns that depend on the query
or the time are encoded for each search. The steps are: filter, bundle equal rows of a machine, order, limit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gpuproxy.sandbox.dialects.vast.query import country, orders, quantity, translated
from gpuproxy.sandbox.market.exchange import SimulatedMarket
from gpuproxy.sandbox.market.machines import Chunk, Machine
from gpuproxy.sandbox.protocol.query import BadQuery, Getter, compiled, sort_key

DEFAULT_STORAGE_GB = 8.0
"""The disk size that prices include if a search names none, by vast.ai's documentation."""
_KINDS = {"on-demand": False, "ondemand": False, "reserved": False, "bid": True, "interruptible": True}
_CONTROLS = frozenset({"order", "type", "limit", "allocated_storage", "disable_bundling", "rented"})
_MONTH_HOURS = 720
_ALIASES = {
    "ask_contract_id": "id",
    "dphtotal": "dph_total",
    "dph": "dph_total",
    "gpu_totalram": "gpu_total_ram",
    "ubuntu_version": "os_version",
    "target_reliability": "reliability",
    "expected_reliability": "reliability",
    "datacenter": "hosting_type",
}
_MOVING = ("verification", "end_date", "avail_vol_size", "direct_port_count")
_GIGABYTES = {"cpu_ram_GB": "cpu_ram", "gpu_ram_GB": "gpu_ram", "gpu_totalram_GB": "gpu_total_ram"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """The values that the computed columns depend on."""

    now: float
    storage_gb: float
    bid: bool


class Offers:
    """The offer search of one market."""

    def __init__(self, market: SimulatedMarket, *, page: int = 0) -> None:
        """`page` limits the offers of every answer (0: no limit)."""
        self._market = market
        self._page = page
        self._machine_bytes: dict[int, tuple[object, bytes]] = {}
        self._chunk_bytes: dict[tuple[int, int], bytes] = {}

    def search(self, query: Mapping[str, Any]) -> bytes:
        """The answer's body `{"offers": [...]}`. Raises BadQuery."""
        pricing = self._pricing(query)
        chunks = self._found(query, pricing)
        rows = [self._encoded(chunk, pricing) for chunk in chunks]
        return b'{"offers":[' + b",".join(rows) + b"]}"

    def rows(self, query: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The found rows as dictionaries, for answers with selected columns. Raises BadQuery."""
        pricing = self._pricing(query)
        return [offer_row(chunk, pricing) for chunk in self._found(query, pricing)]

    def gpu_names(self) -> list[str]:
        """The names of all GPU models, sorted."""
        return sorted({str(machine.columns["gpu_name"]) for machine in self._market.machines.values()})

    def _pricing(self, query: Mapping[str, Any]) -> Pricing:
        kind = query.get("type") or "on-demand"
        if kind not in _KINDS:
            raise BadQuery(f"unknown type {kind}")
        storage = quantity(query, "allocated_storage", DEFAULT_STORAGE_GB)
        return Pricing(now=self._market.now, storage_gb=storage, bid=_KINDS[kind])

    def _found(self, query: Mapping[str, Any], pricing: Pricing) -> list[Chunk]:
        conditions: dict[str, Any] = {"rentable": {"eq": True}, "verified": {"eq": True}}
        conditions |= dict(translated(column, value) for column, value in query.items() if column not in _CONTROLS)
        tests = compiled(conditions, lambda column: _getter(column, pricing))
        if query.get("allocated_storage") is not None:
            tests += compiled({"disk_space": {"gte": pricing.storage_gb}}, lambda column: _getter(column, pricing))
        found = [
            chunk
            for machine in self._market.machines.values()
            if machine.online
            for chunk in machine.chunks
            if all(test(chunk) for test in tests)
        ]
        if query.get("disable_bundling") is not True:
            found = _bundled(found)
        for column, descending in reversed(orders(query)):
            get = _getter(column, pricing)
            found.sort(key=lambda chunk, get=get: sort_key(get(chunk)), reverse=descending)  # type: ignore[misc]
        limit = int(quantity(query, "limit", 0))
        limits = [cap for cap in (limit, self._page) if cap > 0]
        return found[: min(limits)] if limits else found

    def _encoded(self, chunk: Chunk, pricing: Pricing) -> bytes:
        return b"".join(
            (
                b"{",
                self._of_machine(chunk.machine),
                b",",
                self._of_chunk(chunk),
                b",",
                msgspec.json.encode(_computed(chunk, pricing))[1:],
            )
        )

    def _of_machine(self, machine: Machine) -> bytes:
        version = tuple(machine.columns[name] for name in _MOVING)
        kept = self._machine_bytes.get(machine.id)
        if kept is None or kept[0] != version:
            kept = self._machine_bytes[machine.id] = (version, msgspec.json.encode(machine.columns)[1:-1])
        return kept[1]

    def _of_chunk(self, chunk: Chunk) -> bytes:
        key = (chunk.machine.id, chunk.mask)
        kept = self._chunk_bytes.get(key)
        if kept is None:
            kept = self._chunk_bytes[key] = msgspec.json.encode(chunk.columns)[1:-1]
        return kept


def offer_row(chunk: Chunk, pricing: Pricing) -> dict[str, Any]:
    """All columns of an offer."""
    return {**chunk.machine.columns, **chunk.columns, **_computed(chunk, pricing)}


def _computed(chunk: Chunk, pricing: Pricing) -> dict[str, Any]:
    machine = chunk.machine.columns
    gpu = _gpu_price(chunk, pricing)
    disk = _disk_price(chunk, pricing)
    total = gpu + disk
    inet: float = machine["inet_up_cost"] + machine["inet_down_cost"]  # type: ignore[operator, assignment]
    return {
        "id": chunk.offer_id,
        "ask_contract_id": chunk.offer_id,
        "rentable": chunk.rentable,
        "rented": False,
        "is_bid": pricing.bid,
        "min_bid": chunk.min_bid / 1e6,
        "dph_base": gpu,
        "dph_total": total,
        "discounted_dph_total": total,
        "dph_total_adj": total + 0.625 * inet,
        "storage_total_cost": disk,
        "dlperf_per_dphtotal": _per(chunk.columns["dlperf"], total),
        "flops_per_dphtotal": _per(chunk.columns["total_flops"], total),
        "vram_costperhour": gpu / (chunk.columns["gpu_total_ram"] / 1024),  # type: ignore[operator]
        "score": _score(chunk, total),
        "duration": machine["end_date"] - pricing.now,  # type: ignore[operator]
        "search": price_block(gpu, disk),
        "instance": price_block(0, disk),
    }


def price_block(gpu: float, disk: float) -> dict[str, float]:
    """vast.ai's price block, in USD per hour."""
    return {
        "gpuCostPerHour": gpu,
        "diskHour": disk,
        "totalHour": gpu + disk,
        "discountTotalHour": 0,
        "discountedTotalPerHour": gpu + disk,
        "slaPremiumPerHour": 0.0,
    }


def _gpu_price(chunk: Chunk, pricing: Pricing) -> float:
    return (chunk.min_bid if pricing.bid else chunk.price) / 1e6


def _disk_price(chunk: Chunk, pricing: Pricing) -> float:
    return chunk.machine.storage / 1e6 * pricing.storage_gb / _MONTH_HOURS


def _score(chunk: Chunk, total: float) -> float:
    return _per(chunk.columns["dlperf"], total) * float(_stored(chunk, "reliability_mult"))


def _per(value: Any, price: float) -> float:
    return float(value) / price if price > 0 else 0.0


_VIRTUAL: dict[str, Callable[[Chunk, Pricing], Any]] = {
    "id": lambda chunk, _: chunk.offer_id,
    "rentable": lambda chunk, _: chunk.rentable,
    "dph_base": _gpu_price,
    "dph_total": lambda chunk, pricing: _gpu_price(chunk, pricing) + _disk_price(chunk, pricing),
    "score": lambda chunk, pricing: _score(chunk, _gpu_price(chunk, pricing) + _disk_price(chunk, pricing)),
    "duration": lambda chunk, pricing: _stored(chunk, "end_date") - pricing.now,
    "verified": lambda chunk, _: _stored(chunk, "vericode") == 1,
    "external": lambda _chunk, _pricing: False,
    "geolocation": lambda chunk, _: country(_stored(chunk, "geolocation")),
}


def _getter(column: str, pricing: Pricing) -> "Getter[Chunk]":
    name = _ALIASES.get(column, column)
    virtual = _VIRTUAL.get(name)
    if virtual is not None:
        return lambda chunk: virtual(chunk, pricing)
    if name in _GIGABYTES:
        return lambda chunk: _stored(chunk, _GIGABYTES[name]) / 1000
    if name in _COMPUTED:
        return lambda chunk: _computed(chunk, pricing)[name]
    return lambda chunk: _stored(chunk, name)


def _stored(chunk: Chunk, column: str) -> Any:
    columns = chunk.columns if column in chunk.columns else chunk.machine.columns
    try:
        return columns[column]
    except KeyError:
        raise BadQuery(f"{column} is not a valid search key") from None


_COMPUTED = frozenset({"ask_contract_id", "rented", "is_bid", "min_bid", "discounted_dph_total", "dph_total_adj"}) | {
    "storage_total_cost",
    "dlperf_per_dphtotal",
    "flops_per_dphtotal",
    "vram_costperhour",
}


def _bundled(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks with one row for all equal ones of a machine: the one with the lowest id."""
    kept: dict[tuple[int, int, bool, int], Chunk] = {}
    for chunk in chunks:
        key = (chunk.machine.id, chunk.gpus, chunk.rentable, chunk.price)
        other = kept.get(key)
        if other is None or chunk.offer_id < other.offer_id:
            kept[key] = chunk
    return list(kept.values())
