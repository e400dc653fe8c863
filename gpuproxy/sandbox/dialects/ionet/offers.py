"""io.net's lists of hardware, its quotes and its counts of free machines."""

from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.ionet import errors
from gpuproxy.sandbox.dialects.ionet.deploy import location_of
from gpuproxy.sandbox.dialects.ionet.validation import query_of
from gpuproxy.sandbox.market.prepaid.exchange import NoSuchHardware, PrepaidMarket
from gpuproxy.sandbox.market.prepaid.hardware import PLACE_NUMBERS, PLACES, HardwareId, Row
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import Call, answer

_MOST_CARDS, _MOST_HOURS = 8, 8760
_FACTOR = 1.5


def vm_hardware(market: PrepaidMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`GET vmaas/hardware`, and its twin without a key. Raises Invalid."""
    fields = query_of(call.request)
    gpu, supplier = fields.text("gpu").casefold(), fields.word("supplier", ("internal", "external"), "")
    regions = fields.text("regions")
    fields.finish(strict=False)
    rows = [
        _vm_row(market, row)
        for row in market.rows
        if gpu in row.kind.name.casefold() and supplier in ("", row.kind.supplier) and regions in ("", row.location)
    ]
    return answer({"data": {"hardware": rows}})


def container_hardware(market: PrepaidMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`GET caas/hardware`: a bare list with one row for each kind and country. Its twin has the rows of VMaaS."""
    if call.request.path.startswith("/v1/"):
        rows = [
            {**_vm_row(market, row), "brand_name": _brand(row), "available_replicas": market.room(row)}
            for row in largest(market)
        ]
        return answer({"data": {"hardware": rows}})
    return answer({"data": [_container_row(market, row) for row in largest(market)]})


def largest(market: PrepaidMarket) -> list[Row]:
    """The row with the most GPUs for each kind and country: containers are booked with all GPUs of a host."""
    found: dict[tuple[HardwareId, str], Row] = {}
    for row in market.rows:
        key = row.kind.id, row.location
        if key not in found or found[key].cards < row.cards:
            found[key] = row
    return list(found.values())


def price(market: PrepaidMarket, call: Call, fault: Fault | None) -> HttpResponse:
    """`GET caas/price` and `GET vmaas/price`: the price of a whole booking. Raises Invalid."""
    fields = query_of(call.request)
    vm = "/vmaas/" in call.request.path
    named = fields.text("hardware_id", required=True)
    size = "gpus_per_vm" if vm else "gpus_per_container"
    cards = fields.whole(size, least=1, most=_MOST_CARDS)
    hours = fields.whole("duration_hours", least=1, most=_MOST_HOURS)
    workers = fields.whole("replica_count", least=1, default=1 if vm else None)
    fields.word("currency", ("usdc", "iocoin"), "usdc")
    place = fields.place_ids()
    if vm and "location_ids" not in call.request.query:
        fields.wrong("location_ids", "Field required", "missing")
    fields.finish(strict=False)
    row = _row(market, named, cards, location_of(place))
    if row is None or not row.bookable:
        return errors.no_such_hardware()
    moved = fault is not None and fault.name == "price_moved"
    total = row.cost(hours, workers) * (fault.number("factor", _FACTOR) if moved and fault else 1.0) / 1e6
    return answer(
        {
            "data": {
                "replica_count": workers,
                size: cards,
                "available_replica_count": [market.room(row)],
                "discount": 0,
                "ionet_fee": 0,
                "ionet_fee_percent": 0,
                "currency_conversion_fee": 0,
                "currency_conversion_fee_percent": 0,
                "total_cost_usdc": round(total, 6),
                "min_non_promotional_credits_required": 0,
            }
        }
    )


def available(market: PrepaidMarket, call: Call, _: Fault | None) -> HttpResponse:
    """`GET vmaas/available-vms` (only hardware whose id is a number) and `GET caas/available-replicas`.

    Raises Invalid.
    """
    fields = query_of(call.request)
    kind = fields.whole("hardware_id", least=0)
    cards = fields.whole("hardware_qty", least=1, most=_MOST_CARDS)
    fields.finish(strict=False)
    found = [row for row in market.rows if str(row.kind.id) == str(kind) and row.cards == cards]
    return answer({"data": [_place(row.location) | {"available_replicas": market.room(row)} for row in found]})


def most_gpus(market: PrepaidMarket, _call: Call, _fault: Fault | None) -> HttpResponse:
    """`GET caas/hardware/max-gpus-per-container`. Its `total` is 0 even if there are items."""
    rows = [_container_row(market, row) for row in largest(market) if row.bookable]
    names = ("max_gpus_per_container", "available", "hardware_id", "hardware_name", "brand_name")
    return answer({"data": {"hardware": [{name: row[name] for name in names} for row in rows], "total": 0}})


def place(code: str) -> dict[str, Any]:
    """A country as deployments show it."""
    return _place(code)


def _row(market: PrepaidMarket, named: str, cards: int, location: str | None) -> Row | None:
    kind = next((row.kind.id for row in market.rows if str(row.kind.id) == named), None)
    try:
        return None if kind is None else market.row(kind, cards, location)
    except NoSuchHardware:
        return None


def _place(code: str) -> dict[str, Any]:
    return {"id": PLACE_NUMBERS[code], "iso2": code, "name": PLACES[code]}


def _vm_row(market: PrepaidMarket, row: Row) -> dict[str, Any]:
    kind = row.kind
    share = row.cards / kind.host_gpus if kind.host_gpus else 1.0
    return {
        "id": row.id,
        "deploy_id": kind.id,
        "name": kind.name,
        "num_cards": row.cards,
        "supplier": kind.supplier,
        "sold_out": row.cards > 0 and market.room(row) == 0 and row.price > 0,
        "price": row.price,
        "vram_per_card": kind.memory,
        "interconnect": kind.interconnect,
        "nvlink": kind.interconnect is not None and kind.interconnect.startswith("sxm"),
        "storage": round(kind.storage_gb * share),
        "vcpu": round(kind.vcpu * share),
        "memory": round(kind.ram_gb * share),
        "location": row.location,
    }


def _container_row(market: PrepaidMarket, row: Row) -> dict[str, Any]:
    room = market.room(row)
    return {
        "hardware_id": row.kind.id,
        "hardware_name": row.kind.name,
        "brand_name": _brand(row),
        "location": row.location,
        "price": row.price,
        "available": room,
        "network": room,
        "max_gpus_per_container": row.cards or None,
        "min_gpus_per_container": None,
        "confidential_compute": False,
    }


def _brand(row: Row) -> str:
    return "AMD" if row.cards == 0 else "NVIDIA"
