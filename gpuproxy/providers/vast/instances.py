"""Decoding of vast.ai's instances from the wire.

The rule: an unreadable row hides no other row and is never taken for absence; it is reported as a trouble. An
unreadable label is reported too, because "no label" has a meaning. The text of a row is never quoted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gpuproxy.model.gpus import gpu_name
from gpuproxy.model.leases import InstanceId, PortMapping, SshAddress
from gpuproxy.ports import InstanceStatus, ListedInstance
from gpuproxy.providers.decode import (
    BROKEN,
    Unreadable,
    date,
    decoded,
    fields_of,
    percent,
    price,
    token_of,
    typed,
    whole_number,
)
from gpuproxy.providers.vast.status import blame_of, status_of

Discretion = Callable[[str | None, str], str]
"""Removes secrets from a text about the instance with this label. None: the label is not known."""

_HIGHEST_PORT = 65_535
_SSH_PORT = 22
_LONGEST_MESSAGE, _LONGEST_WORD = 2_000, 100
_MOST_ROWS = 100_000
"""Maximum rows of one page; 25 are requested."""
_NAMED_TROUBLES = 20
"""Unreadable rows of one listing that are described; the others are only counted."""
_LONGEST_LABEL = 40
_AT_REST = frozenset({"exited", "stopped"})


class WirePrices(msgspec.Struct, frozen=True):
    """A block of prices. The block `instance` has the present price."""

    total_hour: float | None = msgspec.field(name="totalHour", default=None)


class WireInstance(msgspec.Struct, frozen=True):
    """One row of a listing. `actual_status` is the container's, `cur_state` the contract's. UNSET: unreadable."""

    id: int | str
    label: str | UnsetType | None = UNSET
    actual_status: str | UnsetType | None = UNSET
    intended_status: str | None = None
    cur_state: str | None = None
    next_state: str | None = None
    status_msg: str | None = None
    image_uuid: str | None = None
    image_runtype: str | None = None
    dph_total: float | None = None
    storage_total_cost: float | None = None
    instance: WirePrices | None = None
    gpu_name: str | None = None
    num_gpus: int | None = None
    gpu_util: float | None = None
    machine_id: int | str | None = None
    start_date: float | None = None
    end_date: float | None = None
    ssh_host: str | None = None
    ssh_port: int | None = None
    public_ipaddr: str | None = None
    ports: Any = None


class ListPage(msgspec.Struct, frozen=True):
    """One page of the instance list. An answer without the keys that have no default is not a page."""

    success: bool
    instances: list[msgspec.Raw]
    next_token: str | int | None
    total_instances: int | None = None
    error: Any = None


class OneInstance(msgspec.Struct, frozen=True):
    """The answer to a single read. The key is plural, but its value is one object or empty."""

    instances: msgspec.Raw
    success: Any = None
    error: Any = None


class LogAddress(msgspec.Struct, frozen=True):
    """The URL at which a log will be available once the host has uploaded it."""

    success: bool
    result_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """The content of one page of a listing. `lost`: rows without an id. Each trouble is a short text about one row."""

    instances: Mapping[InstanceId, ListedInstance]
    rows: int
    """All rows of the page, repeated instances included."""
    lost: int
    troubles: Sequence[str]
    next_token: str | None
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A valid single read. `instance` is None if the answer says that it does not exist."""

    instance: ListedInstance | None


def read_listing(body: bytes, number: int, discreet: Discretion) -> Listed:
    """Page `number` of a listing, decoded row by row. Raises one of Unreadable if the body is not such a page."""
    page, mended = decoded(body, ListPage)
    token = token_of(page.next_token)
    if page.error or not page.success or BROKEN in (token or "") or len(page.instances) > _MOST_ROWS:
        raise msgspec.ValidationError("not a page of instances")
    instances: dict[InstanceId, ListedInstance] = {}
    troubles: list[str] = []
    lost = 0
    for at, row in enumerate(page.instances, 1):
        try:
            instance, trouble = _read(row, discreet, mended=mended)
        except Unreadable:
            instance, trouble = None, _why_lost(row, discreet)
        if instance is None:
            lost += 1
        else:
            instances[instance.id] = instance
        if trouble:
            troubles.append(f"row {at} of page {number}: {trouble}")
    return Listed(
        instances=instances,
        rows=len(page.instances),
        lost=lost,
        troubles=troubles,
        next_token=token,
        total=page.total_instances or 0,
    )


def in_few_words(troubles: Sequence[str]) -> tuple[str, ...]:
    """The first troubles of a listing, and the number of the others."""
    more = len(troubles) - _NAMED_TROUBLES
    named = tuple(troubles[:_NAMED_TROUBLES])
    return (*named, f"{more} more rows that can't be read") if more > 0 else named


def read_one(body: bytes, discreet: Discretion) -> Answered:
    """The result of a single read. Raises one of Unreadable if it neither shows nor denies an instance."""
    answer, mended = decoded(body, OneInstance)
    if answer.error or answer.success is False:
        raise msgspec.ValidationError("a refusal, not an instance")
    found = answer.instances
    if bytes(found).lstrip().startswith(b"["):
        rows = msgspec.json.decode(found, type=list[msgspec.Raw])
        if not rows:
            return Answered(instance=None)
        if len(rows) > 1 or not _is_object(rows[0]):
            raise msgspec.ValidationError("not one instance")
        return Answered(instance=_read(rows[0], discreet, mended=mended)[0])
    if b"".join(bytes(found).split()) in (b"null", b"{}"):
        return Answered(instance=None)
    return Answered(instance=_read(found, discreet, mended=mended)[0])


def read_log_address(body: bytes) -> str:
    """The URL of a log. Raises one of Unreadable if the answer has none."""
    address, _ = decoded(body, LogAddress)
    if not address.success:
        raise msgspec.ValidationError("no log")
    return address.result_url


def _read(row: msgspec.Raw, discreet: Discretion, *, mended: bool) -> tuple[ListedInstance, str]:
    """An instance, and a text about the problem of its row, or "". Raises one of Unreadable if it has no id.

    `mended`: True if the page was repaired.
    """
    if not _is_object(row):
        raise msgspec.ValidationError("no object")
    wire, mended_here = typed(row, WireInstance, _INSTANCES)
    mended = mended or mended_here
    number = whole_number(wire.id)
    if number is None:
        raise msgspec.ValidationError("no usable id")
    label = wire.label
    trouble = ""
    if isinstance(label, UnsetType) or (mended and BROKEN in (label or "")):
        label, trouble = None, f"the label of instance {number} can't be read"
    message = (wire.status_msg or "").strip()
    known = not isinstance(wire.actual_status, UnsetType)
    actual = None if isinstance(wire.actual_status, UnsetType) else wire.actual_status
    status = status_of(actual, wire.intended_status, wire.cur_state, message, known=known)
    ports = _ports(wire)
    billed = wire.instance.total_hour if status is InstanceStatus.STOPPED and wire.instance else None
    instance = ListedInstance(
        id=InstanceId(str(number)),
        label=label,
        status=status,
        raw_status=(actual or "")[:_LONGEST_WORD],
        status_message=discreet(label, message)[:_LONGEST_MESSAGE],
        blame=None if status is InstanceStatus.RUNNING else blame_of(message, wire.image_uuid or ""),
        price=price(wire.dph_total),
        stopped_price=price(wire.storage_total_cost if billed is None else billed),
        gpu_model=gpu_name(wire.gpu_name or ""),
        num_gpus=max(0, wire.num_gpus or 0),
        gpu_util=percent(wire.gpu_util),
        machine_id="" if wire.machine_id is None else str(wire.machine_id),
        created_at=date(wire.start_date),
        ends_at=date(wire.end_date),
        ssh=_ssh(wire, ports),
        ports=ports,
        at_rest=actual in _AT_REST and {wire.cur_state, wire.next_state, wire.intended_status} == {"stopped"},
    )
    return instance, trouble


def _is_object(row: msgspec.Raw) -> bool:
    return bytes(row).lstrip().startswith(b"{")


def _why_lost(row: msgspec.Raw, discreet: Discretion) -> str:
    """A short text about a row without an id. Of its content it shows only a readable label."""
    if not _is_object(row):
        return "null" if bytes(row).strip() == b"null" else "no object"
    try:
        fields, _ = fields_of(row)
    except Unreadable:
        return "no JSON"
    label = fields.get("label")
    if not isinstance(label, str) or not label:
        return "no id"
    shown = "".join(each if each.isprintable() else "?" for each in discreet(None, label)[:_LONGEST_LABEL])
    return f"no id, label {shown}"


def _ssh(wire: WireInstance, ports: Sequence[PortMapping]) -> tuple[SshAddress, ...]:
    """The addresses of SSH: through vast.ai's proxy, and at the host itself where port 22 is mapped.

    In the jupyter run modes, the proxy forwards SSH at the next port. The run mode args has no SSH, although rows show
    an address.
    """
    kinds = (wire.image_runtype or "").split()
    if "args" in kinds:
        return ()
    host, port = (wire.ssh_host or "").strip(), _port(wire.ssh_port)
    proxy = [SshAddress(host, port)] if host and port else []
    if proxy and port and port < _HIGHEST_PORT and any(kind.startswith("jupyter") for kind in kinds):
        proxy = [SshAddress(host, port + 1), *proxy]
    direct = [SshAddress(each.host, each.public_port) for each in ports if _is_ssh(each)]
    return tuple(dict.fromkeys((*proxy, *direct)))


def _is_ssh(port: PortMapping) -> bool:
    return port.container_port == _SSH_PORT and port.protocol == "tcp"


def _ports(wire: WireInstance) -> tuple[PortMapping, ...]:
    """The first binding of each port, without unreadable ones."""
    host = (wire.public_ipaddr or "").strip()
    mappings: list[PortMapping] = []
    if not host or not isinstance(wire.ports, dict):
        return ()
    for name, bindings in wire.ports.items():
        inside, _, protocol = name.partition("/")
        first = bindings[0] if isinstance(bindings, list) and bindings else None
        container, public = _port(inside), _port(first.get("HostPort") if isinstance(first, dict) else None)
        if container and public:
            mappings.append(
                PortMapping(container_port=container, protocol=protocol or "tcp", host=host, public_port=public)
            )
    return tuple(mappings)


def _port(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and number <= _HIGHEST_PORT else None


_INSTANCES = msgspec.json.Decoder(WireInstance, strict=False)
