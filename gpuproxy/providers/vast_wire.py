"""What vast.ai's offers and instances look like on the wire, and what they are to us.

The rule: only what money or identity depends on is required; everything else may be missing, null, a numeric string
or of an odd type without the row being lost. Fields that are not named here are skipped unread.
Facts: `dph_*` are dollars per hour for the whole chunk, memory is in MB, dates are epoch seconds.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeVar

import msgspec

from gpuproxy.model.gpus import gpu_name, nominal_vram
from gpuproxy.model.leases import InstanceId, PortMapping
from gpuproxy.model.money import Micro, micro
from gpuproxy.model.offers import HostKey, Offer, OfferId, ProviderName
from gpuproxy.ports import Instance, InstanceStatus

NAME = ProviderName("vast.ai")
PREFIX = "vast-"

T = TypeVar("T", bound=msgspec.Struct)
Unreadable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that a decoder raises for bytes that it can't make sense of."""


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


class WirePort(msgspec.Struct, frozen=True):
    """Docker's port binding."""

    public: int = msgspec.field(name="HostPort")


class WirePrices(msgspec.Struct, frozen=True):
    """A price block: `instance` is what is billed at present."""

    total_hour: float | None = msgspec.field(name="totalHour", default=None)


class WireInstance(msgspec.Struct, frozen=True):
    """One row of a list; `actual_status` is the container's, `cur_state` the contract's."""

    id: int | str
    label: str | None = None
    actual_status: str | None = None
    intended_status: str | None = None
    cur_state: str | None = None
    status_msg: str | None = None
    dph_total: float | None = None
    storage_total_cost: float | None = None
    instance: WirePrices | None = None
    gpu_name: str | None = None
    num_gpus: int | None = None
    machine_id: int | str | None = None
    start_date: float | None = None
    end_date: float | None = None
    ssh_host: str | None = None
    ssh_port: int | None = None
    public_ipaddr: str | None = None
    ports: dict[str, list[WirePort] | None] | None = None


class SearchPage(msgspec.Struct, frozen=True):
    """An answer to a search: the rows are left undecoded, so that a bad one costs itself only."""

    offers: list[msgspec.Raw]


class ListPage(msgspec.Struct, frozen=True):
    """One page of the instance list; a page without these keys is no page."""

    success: bool
    instances: list[msgspec.Raw]
    next_token: str | None
    total_instances: int | None = None


class OneInstance(msgspec.Struct, frozen=True):
    """A single read; the key is plural, its value one object or null."""

    instances: msgspec.Raw


class LogAddress(msgspec.Struct, frozen=True):
    """Where a log will be once the host has brought it there."""

    success: bool
    result_url: str


_ABSURD = 1_000_000.0
"""USD that no machine costs."""


class Charge(msgspec.Struct, frozen=True):
    """What one thing cost in a time; USD."""

    source: str
    amount: float
    start: float | str | None = None
    end: float | str | None = None


class ChargesPage(msgspec.Struct, frozen=True):
    """One page of the charges."""

    success: bool
    results: list[msgspec.Raw]
    next_token: str | int | None
    total: int | None = None


class ChargeSource(msgspec.Struct, frozen=True):
    """Whose charge a row is that says nothing else of use."""

    source: str = ""


class User(msgspec.Struct, frozen=True):
    """The account."""

    credit: float
    id: int | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One search answer: `rows` as the server sent them, and where the next question has to begin."""

    rows: int
    offers: tuple[Offer, ...]
    undecodable: int
    last_price: float
    """The highest `dph_total`, in dollars; -1 when there is none."""
    last_machine: int


def read_search(body: bytes, marks: Mapping[str, str]) -> Found:
    """Decode and normalise a search answer; of rows with the same id the higher score stays.

    `marks` are added to the extras of every offer.
    Raises one of Unreadable when it is not a search answer at all.
    """
    rows = msgspec.json.decode(body, type=SearchPage).offers
    shared = tuple(marks.items())
    scores: dict[int, float] = {}
    offers: dict[int, Offer] = {}
    last_price, last_machine, undecodable = -1.0, -1, 0
    for row in rows:
        try:
            wire = _typed(row, WireOffer, _OFFERS)
            offer = _offer(wire, shared)
        except (*Unreadable, ValueError, OverflowError):
            undecodable += 1
            continue
        last_price = max(last_price, wire.dph_total)
        last_machine = max(last_machine, wire.machine_id)
        score = wire.score or 0.0
        if wire.rentable is not False and not wire.is_bid and score > scores.get(wire.id, -1.0):
            scores[wire.id], offers[wire.id] = score, offer
    return Found(
        rows=len(rows),
        offers=tuple(offers.values()),
        undecodable=undecodable,
        last_price=last_price,
        last_machine=last_machine,
    )


def read_instance(row: msgspec.Raw) -> Instance | None:
    """None for null. Raises one of Unreadable when the row has no id or is no object."""
    if bytes(row).strip() == b"null":
        return None
    wire = _typed(row, WireInstance, _INSTANCES)
    status = _status(wire)
    billed = wire.instance.total_hour if status is InstanceStatus.STOPPED and wire.instance else None
    return Instance(
        id=InstanceId(str(wire.id)),
        label=wire.label,
        status=status,
        raw_status=wire.actual_status or "",
        status_message=(wire.status_msg or "").strip(),
        price=_money(wire.dph_total),
        stopped_price=_money(wire.storage_total_cost if billed is None else billed),
        gpu_model=gpu_name(wire.gpu_name or ""),
        num_gpus=wire.num_gpus or 0,
        machine_id="" if wire.machine_id is None else str(wire.machine_id),
        created_at=_date(wire.start_date),
        ends_at=_date(wire.end_date),
        ssh_host=(wire.ssh_host or "").strip(),
        ssh_port=wire.ssh_port or 0,
        ports=_ports(wire),
    )


def _typed(row: msgspec.Raw, kind: type[T], decoder: msgspec.json.Decoder[T]) -> T:
    """The fast decoder; where it fails, field by field, so that only a field that matters can fail the row."""
    try:
        return decoder.decode(row)
    except msgspec.ValidationError:
        loose = msgspec.json.decode(row, type=dict[str, object])
    kept: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        try:
            kept[field.name] = msgspec.convert(loose[field.encode_name], field.type, strict=False)
        except (KeyError, msgspec.ValidationError):
            if field.required:
                raise msgspec.ValidationError(f"no usable {field.encode_name}") from None
    return kind(**kept)


def _offer(wire: WireOffer, marks: tuple[tuple[str, str], ...]) -> Offer:
    if wire.num_gpus < 1 or wire.dph_base < 0 or wire.storage_cost < 0:
        raise ValueError("impossible numbers")
    machine = str(wire.machine_id)
    reliability = wire.reliability2 if wire.reliability is None else wire.reliability
    return Offer(
        id=OfferId(f"{PREFIX}{wire.id}"),
        provider=NAME,
        host=HostKey(f"{NAME}/{machine}"),
        machine_id=machine,
        gpu_model=gpu_name(wire.gpu_name),
        num_gpus=wire.num_gpus,
        vram_gb=nominal_vram(wire.gpu_ram),
        gpu_price=micro(wire.dph_base),
        disk_price_month=micro(wire.storage_cost),
        max_disk_gb=wire.disk_space,
        host_gpus=round(wire.num_gpus / wire.gpu_frac) if wire.gpu_frac and wire.gpu_frac > 0 else 0,
        location=_place(wire.geolocation or ""),
        reliability_ppm=round((reliability or 0.0) * 1_000_000),
        verified=wire.verification == "verified" or (wire.verification is None and wire.vericode == 1),
        cuda_max=wire.cuda_max_good or 0.0,
        conflict_keys=tuple([f"g{gpu}" for gpu in wire.gpu_ids]) if wire.gpu_ids else (f"m{machine}",),
        expires_at=_date(wire.end_date),
        extras=_extras(wire.host_id, wire.direct_port_count, wire.hosting_type, marks),
    )


@lru_cache(maxsize=4096)
def _place(raw: str) -> str:
    """`", US"` is a country whose state is not known."""
    return raw.strip(" ,")


@lru_cache(maxsize=4096)
def _extras(
    owner: int | str | None, direct_ports: int | None, hosting: int | None, marks: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    """Shared between the offers that have the same."""
    named = {"host_account": owner, "direct_ports": direct_ports, "datacenter": hosting}
    return {name: str(value) for name, value in named.items() if value is not None} | dict(marks)


_BOOTING = frozenset({None, "", "loading", "created", "rebooting", "recycling"})
_ENDED = frozenset({"stopped", "exited"})
_SILENT = frozenset({"offline", "unknown"})


def _status(wire: WireInstance) -> InstanceStatus:
    """`exited` is no failure by itself, nor is `created` a beginning: both depend on what was intended."""
    actual, intended = wire.actual_status, wire.intended_status
    if actual == "running":
        return InstanceStatus.RUNNING
    if actual in _SILENT:
        return InstanceStatus.OFFLINE
    if "OCI runtime create failed" in (wire.status_msg or "") or (actual == "created" and intended == "stopped"):
        return InstanceStatus.BROKEN
    if actual in _BOOTING:
        return InstanceStatus.STOPPED if intended == "stopped" else InstanceStatus.PENDING
    if actual in _ENDED:
        # Intended to run with the contract stopped: a start that waits in the queue, without a GPU.
        holds_gpu = intended == "running" and wire.cur_state != "stopped"
        return InstanceStatus.BROKEN if holds_gpu else InstanceStatus.STOPPED
    return InstanceStatus.UNSURE


def _ports(wire: WireInstance) -> tuple[PortMapping, ...]:
    host = (wire.public_ipaddr or "").strip()
    mappings: list[PortMapping] = []
    for name, bindings in (wire.ports or {}).items():
        inside, _, protocol = name.partition("/")
        if host and bindings and inside.isdecimal():
            mappings.append(
                PortMapping(
                    container_port=int(inside),
                    protocol=protocol or "tcp",
                    host=host,
                    public_port=bindings[0].public,
                )
            )
    return tuple(mappings)


def _money(dollars: float | None) -> Micro | None:
    """None for what can't be a price: one odd row must not keep the whole account from being looked after."""
    return micro(dollars) if dollars is not None and 0 <= dollars < _ABSURD else None


def _date(epoch: float | None) -> datetime | None:
    if not epoch:
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


_OFFERS = msgspec.json.Decoder(WireOffer, strict=False)
_INSTANCES = msgspec.json.Decoder(WireInstance, strict=False)


def charge_of(row: msgspec.Raw) -> tuple[str, Charge | None]:
    """What a row is about, and the row; None where it can't be believed: no amount, a negative or absurd one."""
    try:
        charge = msgspec.json.decode(row, type=Charge, strict=False)
    except Unreadable:
        try:
            return msgspec.json.decode(row, type=ChargeSource).source, None
        except Unreadable:
            return "", None
    return charge.source, charge if 0 <= charge.amount < _ABSURD else None


def by_instance(charges: Iterable[Charge], odd: Collection[str]) -> dict[InstanceId, Micro]:
    """What each instance was charged in all; those of which a row can't be believed are left out."""
    sums: dict[InstanceId, Micro] = {}
    for charge in charges:
        kind, _, number = charge.source.partition("-")
        if kind == "instance" and charge.source not in odd:
            sums[InstanceId(number)] = Micro(sums.get(InstanceId(number), 0) + micro(charge.amount))
    return sums
