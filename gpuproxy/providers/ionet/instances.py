"""Decoding of io.net's deployments and virtual machines from the wire.

The rule: an unreadable row hides no other row and is never taken for absence; it is reported as a trouble. The name of
a deployment, which is our label, is only in the list; what was paid for it is only in the single read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import isfinite
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from gpuproxy.model.gpus import gpu_name
from gpuproxy.model.leases import InstanceId, PortMapping, SshAddress
from gpuproxy.model.money import Micro
from gpuproxy.ports import Booking, InstanceStatus, ListedInstance
from gpuproxy.providers.decode import BROKEN, Unreadable, converted, decoded, fields_of, price, typed, whole_number
from gpuproxy.providers.ionet.wire import inside

Discretion = Callable[[str], str]
"""Removes secrets from a text."""

_STATUSES: Mapping[str, InstanceStatus] = {
    "deployment requested": InstanceStatus.PENDING,
    "deploying": InstanceStatus.PENDING,
    "running": InstanceStatus.RUNNING,
    "termination requested": InstanceStatus.UNSURE,  # it still exists, and is neither starting nor good
}
_ENDED = frozenset({"completed", "failed", "destroyed", "terminated"})
FAILED = "failed"
_MOST_ROWS = 10_000
_MOST_MINUTES = 10_000 * 60.0
_HIGHEST_PORT = 65_535
_LONGEST_WORD, _LONGEST_MESSAGE, _LONGEST_ID, _LONGEST_LABEL = 100, 2_000, 128, 40
_NAMED_TROUBLES = 20
"""Unreadable rows of one listing that are described; the others are only counted."""
_ID = re.compile(r"[A-Za-z0-9_.:-]+")
_HOST = re.compile(r"(?:(?P<user>[A-Za-z0-9_.+-]+)@)?(?P<host>\[?[A-Za-z0-9.:-]+\]?)")
_SSH_PORT = 22
_WITH_VALUE = frozenset({"-i", "-o", "-F", "-J"})
"""Options of ssh that are followed by a value."""


class WireDeployment(msgspec.Struct, frozen=True):
    """A deployment, in the list or in a single read. UNSET: missing or unreadable."""

    id: str
    status: str | UnsetType | None = UNSET
    name: str | UnsetType | None = UNSET
    resource_private_name: str | UnsetType | None = UNSET
    hardware_name: str | None = None
    hardware_quantity: int | None = None
    total_gpus: int | None = None
    compute_minutes_served: float | None = None
    compute_minutes_remaining: float | None = None
    amount_paid: float | None = None
    created_at: str | None = None


class WireVm(msgspec.Struct, frozen=True):
    """A virtual machine of a deployment."""

    ssh_access: str | None = None
    network_services: Any = None
    vm_events: Any = None


class _Page(msgspec.Struct, frozen=True):
    deployments: list[msgspec.Raw]
    total: int | None = None


class _Vms(msgspec.Struct, frozen=True):
    workers: list[msgspec.Raw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment. `ended`: nothing of it exists any more."""

    instance: ListedInstance
    status: str
    """io.net's word, in lower case with spaces."""
    served: timedelta | None = None
    """How long it ran, in whole minutes; None if the answer does not tell it."""

    @property
    def ended(self) -> bool:
        """True if nothing of it exists any more."""
        return self.status in _ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing. `lost`: rows without an id. Each trouble is a short text about one row."""

    deployments: Sequence[Deployment]
    rows: int
    lost: int
    troubles: Sequence[str]
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach a machine, and what its events say. `command` is the ssh command as io.net gives it."""

    ssh: tuple[SshAddress, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    command: str = ""
    events: str = ""
    complete: bool = False
    """Nothing is missing any more: SSH has an address, and so has every network service."""


def read_page(body: bytes, number: int, now: datetime, discreet: Discretion) -> Page:
    """Page `number` of a listing that was read at `now`. Raises one of Unreadable if the body is not such a page."""
    page, mended = decoded(bytes(inside(body)), _Page)
    if len(page.deployments) > _MOST_ROWS:
        raise msgspec.ValidationError("too many rows")
    deployments: list[Deployment] = []
    troubles: list[str] = []
    lost = 0
    for at, row in enumerate(page.deployments, 1):
        try:
            deployment, trouble = _read(row, now, discreet, mended=mended)
        except (*Unreadable, ValueError, OverflowError):
            lost += 1
            trouble = _why_lost(row, discreet)
        else:
            deployments.append(deployment)
            trouble = "" if deployment.ended else trouble
        if trouble:
            troubles.append(f"row {at} of page {number}: {trouble}")
    return Page(
        deployments=deployments, rows=len(page.deployments), lost=lost, troubles=troubles, total=max(0, page.total or 0)
    )


def read_one(body: bytes, now: datetime, discreet: Discretion) -> Deployment:
    """A single read. Raises one of Unreadable if the body is none."""
    data = inside(body)
    return _read(data, now, discreet, mended=False, single=True)[0]


def read_access(body: bytes, discreet: Discretion) -> Access:
    """How to reach the machine of a deployment; empty while it has none. Raises one of Unreadable."""
    found = Access()
    for raw in decoded(bytes(inside(body)), _Vms)[0].workers:
        vm, _ = typed(raw, WireVm, _VMS)
        command = (vm.ssh_access or "").strip()
        ssh, ports = _ssh(command), _ports(vm.network_services)
        services = len(vm.network_services) if isinstance(vm.network_services, dict) else 0
        found = Access(
            ssh=found.ssh or ssh,
            ports=found.ports or ports,
            complete=found.complete or (bool(command) and len(ports) == services),
            command=found.command or discreet(command)[:_LONGEST_MESSAGE],
            events=found.events or discreet(_events(vm.vm_events))[:_LONGEST_MESSAGE],
        )
    return found


def in_few_words(troubles: Sequence[str]) -> tuple[str, ...]:
    """The first troubles of a listing, and the number of the others."""
    more = len(troubles) - _NAMED_TROUBLES
    named = tuple(troubles[:_NAMED_TROUBLES])
    return (*named, f"{more} more rows that can't be read") if more > 0 else named


def status_word(raw: str) -> str:
    """io.net's status in one spelling: "DEPLOYMENT_REQUESTED" and "deployment-requested" are the same."""
    return " ".join(raw.replace("_", " ").replace("-", " ").lower().split())


def _read(
    row: msgspec.Raw, now: datetime, discreet: Discretion, *, mended: bool, single: bool = False
) -> tuple[Deployment, str]:
    """A deployment, and a text about the problem of its row, or "". Raises one of Unreadable if it has no id.

    `mended`: True if the page was repaired.
    """
    wire, mended_here = typed(row, WireDeployment, _DEPLOYMENTS)
    if len(wire.id) > _LONGEST_ID or not _ID.fullmatch(wire.id):
        raise msgspec.ValidationError("no usable id")
    if single and not isinstance(wire.status, str):
        raise msgspec.ValidationError("no status")
    label, trouble = (None, "") if single else _label(wire, mended=mended or mended_here)
    word = status_word(wire.status) if isinstance(wire.status, str) else ""
    until = _until(wire.compute_minutes_remaining, now)
    paid = price(wire.amount_paid)
    quantity = wire.hardware_quantity if wire.total_gpus is None else wire.total_gpus
    instance = ListedInstance(
        id=InstanceId(wire.id),
        label=label,
        status=_STATUSES.get(word, InstanceStatus.UNSURE),
        raw_status=discreet(wire.status if isinstance(wire.status, str) else "")[:_LONGEST_WORD],
        price=_rate(paid, wire.compute_minutes_served, wire.compute_minutes_remaining),
        gpu_model=gpu_name(wire.hardware_name or ""),
        num_gpus=max(0, quantity or 0),
        created_at=_moment(wire.created_at),
        booking=None if until is None else Booking(until=until, paid=paid),
    )
    return Deployment(instance=instance, status=word, served=_served(wire.compute_minutes_served)), trouble


def _label(wire: WireDeployment, *, mended: bool) -> tuple[str | None, str]:
    """The name, under either key, and a text about its problem. A name that can't be read is not "no name"."""
    named = wire.resource_private_name if isinstance(wire.name, UnsetType) else wire.name
    if isinstance(named, UnsetType) or (mended and BROKEN in (named or "")):
        return None, f"the name of deployment {wire.id} can't be read"
    return named, ""


def _until(remaining: float | None, now: datetime) -> datetime | None:
    """The end of the booking; None if the answer does not tell it."""
    if remaining is None or not isfinite(remaining) or remaining > _MOST_MINUTES:
        return None
    return now + timedelta(minutes=max(0.0, remaining))


def _served(minutes: float | None) -> timedelta | None:
    if minutes is None or not 0 < minutes <= _MOST_MINUTES:  # 0 is also what is told of what never ran
        return None
    return timedelta(minutes=minutes)


def _rate(paid: Micro | None, served: float | None, remaining: float | None) -> Micro | None:
    """The price per hour that was paid; None if the answer does not tell it."""
    if not paid or served is None or remaining is None:
        return None
    minutes = served + remaining
    return Micro(round(paid * 60 / minutes)) if isfinite(minutes) and minutes >= 1 else None


def _moment(text: str | None) -> datetime | None:
    """The time; without a zone it is UTC. None if it can't be read."""
    try:
        moment = datetime.fromisoformat((text or "").strip())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _ssh(command: str) -> tuple[SshAddress, ...]:
    """The address in an ssh command, whose form is not documented: `ssh user@host -p port`."""
    words, port, user, host = command.split(), _SSH_PORT, "", ""
    for before, word in pairwise(words):
        if before == "-p" or (word.startswith("-p") and len(word) > 2):
            port = _port(word.removeprefix("-p")) or 0
        elif before == "-l":
            user = word
        elif not word.startswith("-") and before not in _WITH_VALUE and not host:
            match = _HOST.fullmatch(word.removeprefix("ssh://"))
            host, user = (match["host"].strip("[]"), match["user"] or user) if match else ("", user)
    if words[:1] != ["ssh"] or not host or not port:
        return ()
    return (SshAddress(host, port, user) if user else SshAddress(host, port),)


def _ports(services: object) -> tuple[PortMapping, ...]:
    """The public addresses of the network services, without unreadable ones."""
    mappings: list[PortMapping] = []
    for service in services.values() if isinstance(services, dict) else ():
        if not isinstance(service, dict):
            continue
        inner, outer, host = _port(service.get("port")), _port(service.get("public_port")), service.get("public_ip")
        protocol = service.get("protocol")
        if inner and outer and isinstance(host, str) and host.strip():
            protocol = protocol.lower() if isinstance(protocol, str) and protocol else "tcp"
            mappings.append(PortMapping(container_port=inner, protocol=protocol, host=host.strip(), public_port=outer))
    return tuple(mappings)


def _port(value: object) -> int | None:
    number = whole_number(value)
    return number if number is not None and number <= _HIGHEST_PORT else None


def _events(events: object) -> str:
    """The messages of a machine's events, the last one first."""
    messages = [
        message
        for each in (events if isinstance(events, list) else ())
        if isinstance(each, dict) and isinstance(message := each.get("message"), str) and message
    ]
    return "; ".join(reversed(messages))


def _why_lost(row: msgspec.Raw, discreet: Discretion) -> str:
    """A short text about a row without an id. Of its content it shows only a readable name."""
    try:
        fields, _ = fields_of(row)
        name = converted(fields.get("name", fields.get("resource_private_name")), str)
    except Unreadable:
        return "no id"
    shown = "".join(each if each.isprintable() else "?" for each in discreet(name)[:_LONGEST_LABEL])
    return f"no id, name {shown}" if shown else "no id"


_DEPLOYMENTS = msgspec.json.Decoder(WireDeployment, strict=False)
_VMS = msgspec.json.Decoder(WireVm, strict=False)
