"""Decoding of vast.ai's volumes and volume offers from the wire, and the requests about them.

The rule: a search is complete or an error, so one unreadable offer spoils the answer. A listing names each unreadable
volume and lists the others. A volume whose machines are unclear counts as in use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gpuproxy.model.errors import InvalidRequest
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import HOURS_PER_MONTH, Micro
from gpuproxy.model.offers import OfferId
from gpuproxy.ports import ListedVolume, VolumeOffer
from gpuproxy.providers.decode import (
    BROKEN,
    Unreadable,
    date,
    decoded,
    fields_of,
    price,
    typed,
    whole_number,
)
from gpuproxy.providers.vast.requests import SEARCH_CAP, SEARCH_LIMIT, native_id
from gpuproxy.providers.vast.wire import NAME, PREFIX, volume_id

_OURS = "gpx_"
"""The beginning of a name that was made of a label. Names have no "-", and labels no "_"."""
_NAMEABLE = re.compile(r"[A-Za-z0-9-]{1,64}")
_IN_USE = frozenset({"in-use", "in_use", "in use"})
"""A new word means nothing: if it did, a volume could never be deleted. vast.ai refuses to delete one in use."""
_MOST_GB = 10_000_000
_MOST_ROWS = 100_000


class WireVolumeOffer(msgspec.Struct, frozen=True):
    """One row of a search for volumes. `disk_space` is in GB, `storage_cost` in dollars per GB and month."""

    id: int | str
    machine_id: int | str
    disk_space: float
    storage_cost: float
    end_date: float | None = None
    rentable: bool | None = None


class WireVolume(msgspec.Struct, frozen=True):
    """One row of a listing of volumes. UNSET: missing or unreadable."""

    id: int | str
    label: str | UnsetType | None = UNSET
    machine_id: int | str | None = None
    disk_space: float | None = None
    status: str | None = None
    instances: Any = UNSET
    storage_cost: float | None = None
    """Dollars per GB and month."""
    storage_total_cost: float | None = None
    """Dollars per hour of the whole volume."""
    start_date: float | None = None
    end_date: float | None = None


class OffersPage(msgspec.Struct, frozen=True):
    """An answer to a search for volumes."""

    offers: list[msgspec.Raw]
    success: Any = None
    error: Any = None


class VolumesPage(msgspec.Struct, frozen=True):
    """An answer to a listing of volumes. It has no pages; a token for a next one would mean that it is not complete."""

    volumes: list[msgspec.Raw]
    success: Any = None
    error: Any = None
    next_token: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundVolumes:
    """A search answer: the offers that can be rented, the machines of all rows, and their number."""

    offers: Sequence[VolumeOffer]
    machines: frozenset[str]
    rows: int

    @property
    def full(self) -> bool:
        """The answer has as many rows as the service may send at most: there may be more."""
        return self.rows >= SEARCH_CAP


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedVolumes:
    """The volumes of a listing, and a short text about each row with a problem."""

    volumes: Mapping[InstanceId, ListedVolume]
    troubles: Sequence[str]


def offers_body(machines: Sequence[int], size_gb: int) -> dict[str, object]:
    """The search for space of this size on these machines, verified or not."""
    return {
        "verified": {"in": [True, False]},
        "machine_id": {"in": [*machines]},
        "disk_space": {"gte": size_gb},
        "order": [["machine_id", "asc"]],
        "limit": SEARCH_LIMIT,
        "allocated_storage": size_gb,
    }


def volume_body(offer: VolumeOffer, size_gb: int, label: str) -> dict[str, object]:
    """The body that rents a volume. Raises InvalidRequest for what vast.ai can't have."""
    number = native_id(offer.id)
    if number is None:
        raise InvalidRequest(f"{offer.id} is no offer of {NAME}")
    if size_gb < 1:
        raise InvalidRequest(f"a volume has at least 1 GB, not {size_gb}")
    return {"id": number, "size": size_gb, "name": name_of(label)}


def name_of(label: str) -> str:
    """The volume's name: vast.ai allows letters, digits and underscores. Raises InvalidRequest for another label."""
    if _NAMEABLE.fullmatch(label) is None:
        raise InvalidRequest(f"a volume can't have the label {label[:64]!r}: 1 to 64 letters, digits and hyphens")
    return label.replace("-", "_")


def label_of(name: str | None) -> str | None:
    """The label that a name was made of; None if it is not one of ours."""
    return name.replace("_", "-") if name is not None and name.startswith(_OURS) else None


def read_volume_offers(body: bytes, size_gb: int) -> FoundVolumes:
    """A search answer, without offers that are smaller or not rentable. Raises one of Unreadable for a wrong row."""
    page, _ = decoded(body, OffersPage)
    if page.error or page.success is False:
        raise msgspec.ValidationError("a refusal, not the offers")
    offers: dict[OfferId, VolumeOffer] = {}
    machines: set[str] = set()
    for row in page.offers:
        wire, _ = typed(row, WireVolumeOffer, _OFFERS)
        offer = _offer(wire)
        machines.add(offer.machine_id)
        if wire.rentable is not False and offer.max_gb >= size_gb:
            offers[offer.id] = offer
    return FoundVolumes(offers=tuple(offers.values()), machines=frozenset(machines), rows=len(page.offers))


def read_volumes(body: bytes) -> ListedVolumes:
    """A listing, decoded row by row. Raises one of Unreadable if the body is not a complete one."""
    page, mended = decoded(body, VolumesPage)
    if page.error or page.success is False or page.next_token or len(page.volumes) > _MOST_ROWS:
        raise msgspec.ValidationError("not a complete list of volumes")
    volumes: dict[InstanceId, ListedVolume] = {}
    troubles: list[str] = []
    for at, row in enumerate(page.volumes, 1):
        try:
            volume, trouble = _volume(row, mended=mended)
        except Unreadable:
            troubles.append(f"volume row {at}: {_why_lost(row)}")
            continue
        if volume.id in volumes:
            trouble = f"volume {volume.id} is listed twice"
        volumes[volume.id] = volume
        troubles += [f"volume row {at}: {trouble}"] if trouble else []
    return ListedVolumes(volumes=volumes, troubles=troubles)


def _offer(wire: WireVolumeOffer) -> VolumeOffer:
    number, machine, monthly = whole_number(wire.id), whole_number(wire.machine_id), price(wire.storage_cost)
    if number is None or machine is None or monthly is None or not 0 <= wire.disk_space < inf:
        raise msgspec.ValidationError("not a volume offer")
    return VolumeOffer(
        id=OfferId(f"{PREFIX}-{number}"),
        machine_id=str(machine),
        max_gb=int(min(wire.disk_space, _MOST_GB)),
        price_month=monthly,
        ends_at=date(wire.end_date),
    )


def _volume(row: msgspec.Raw, *, mended: bool) -> tuple[ListedVolume, str]:
    """A volume, and a text about the problem of its row, or "". Raises one of Unreadable if it has no id."""
    wire, mended_here = typed(row, WireVolume, _VOLUMES)
    number = volume_id(wire.id)
    if number is None:
        raise msgspec.ValidationError("no usable id")
    troubles: list[str] = []
    name = wire.label
    if isinstance(name, UnsetType) or ((mended or mended_here) and BROKEN in (name or "")):
        name = None
        troubles.append(f"the label of volume {number} can't be read")
    users = _users(wire)
    if users is None:
        troubles.append(f"the instances of volume {number} can't be read")
    machine = whole_number(wire.machine_id)
    if machine is None:
        troubles.append(f"the machine of volume {number} can't be read")
    volume = ListedVolume(
        id=number,
        label=label_of(name),
        machine_id="" if machine is None else str(machine),
        size_gb=_size(wire.disk_space),
        price=_hourly(wire),
        used_by=users or (),
        in_use=bool(users) or users is None or wire.status in _IN_USE,
        created_at=date(wire.start_date),
        ends_at=date(wire.end_date),
    )
    return volume, ", ".join(troubles)


def _users(wire: WireVolume) -> tuple[InstanceId, ...] | None:
    """The instances that have the volume; None if that is not clear. Null means none if the status agrees."""
    if wire.instances is None and wire.status == "created":
        return ()
    if not isinstance(wire.instances, list):
        return None
    numbers = [whole_number(each) for each in wire.instances]
    known = tuple(InstanceId(str(number)) for number in numbers if number is not None)
    return known if len(known) == len(numbers) else None


def _hourly(wire: WireVolume) -> Micro | None:
    """The price per hour: the row's own, else that of its size."""
    whole = price(wire.storage_total_cost)
    if whole is not None or wire.storage_cost is None or wire.disk_space is None:
        return whole
    return price(wire.storage_cost * wire.disk_space / HOURS_PER_MONTH)


def _size(gigabytes: float | None) -> int:
    """Whole GB; 0 if unknown."""
    return round(gigabytes) if gigabytes is not None and 0 < gigabytes < _MOST_GB else 0


def _why_lost(row: msgspec.Raw) -> str:
    """A short text about a row without an id. Nothing of the row is quoted."""
    try:
        fields_of(row)
    except Unreadable:
        return "no object"
    return "no id"


_OFFERS = msgspec.json.Decoder(WireVolumeOffer, strict=False)
_VOLUMES = msgspec.json.Decoder(WireVolume, strict=False)
