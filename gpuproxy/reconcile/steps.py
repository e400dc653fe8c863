"""The input of a plan and the steps of a plan, as values. `plan` creates steps; `observe` applies them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gpuproxy.model.bookings import BookingRecord
from gpuproxy.model.lease_events import Event
from gpuproxy.model.lease_facts import Fact
from gpuproxy.model.leases import InstanceId, Lease, LeaseId
from gpuproxy.model.owners import Owner, OwnerId
from gpuproxy.ports import Capabilities
from gpuproxy.reconcile.doubts import Doubt, Unanswered
from gpuproxy.reconcile.listings import Listing
from gpuproxy.reconcile.ways_in import WayIn
from gpuproxy.runtime.limits import Limits

NEVER_READY = "it did not get ready"
"""The beginning of the status message of a machine that did not get ready; the marketplace's last words follow."""


@dataclass(frozen=True, slots=True)
class Advance:
    """The lease goes through an event."""

    lease: Lease
    event: Event


@dataclass(frozen=True, slots=True)
class Adopt:
    """Record that the instance belongs to the lease."""

    lease: Lease
    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class Note:
    """Record a fact that changes no state."""

    lease: Lease
    fact: Fact


@dataclass(frozen=True, slots=True)
class Destroy:
    """Ask the provider to destroy the instance."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the provider to stop the instance, which runs although it is to be stopped."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Confirm:
    """Read the instance by id, because the listing no longer shows it."""

    lease: Lease
    alone: bool = False
    """Two reads are needed, some time apart: the machine is wanted, or the listing can't be relied on."""


@dataclass(frozen=True, slots=True)
class ProbeReady:
    """Probe whether the machine answers at one of its addresses."""

    lease: Lease
    ways_in: tuple[WayIn, ...]
    late: bool = False
    """The machine should be ready by now, so unanswered probes count."""


@dataclass(frozen=True, slots=True)
class RegisterKeys:
    """Give the machine's SSH keys to the marketplace."""

    lease: Lease
    runs: bool
    """The machine runs, so its readiness waits for the keys."""


@dataclass(frozen=True, slots=True)
class ReadBoot:
    """Read in the machine's log what its boot script reported."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Relabel:
    """Write the machine's label anew, because it does not carry the end of the lease."""

    lease: Lease
    label: str
    was: str | None
    """The label that the marketplace shows."""
    foreign: bool
    """Somebody else changed the label: it is none of ours."""


@dataclass(frozen=True, slots=True)
class Extend:
    """Buy more hours for a prepaid machine."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class ReadBooking:
    """Read what is booked for a prepaid machine, because it is not known or in doubt."""

    lease: Lease


Step = (
    Advance | Adopt | Note | Destroy | Stop | Confirm | ProbeReady | RegisterKeys | ReadBoot | Relabel | Extend
    | ReadBooking
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The input of a plan."""

    leases: Sequence[Lease]
    """Every live lease of the account."""
    owners: Mapping[OwnerId, Owner]
    """The owners of all these leases."""
    listing: Listing | None
    now: datetime
    capabilities: Capabilities
    limits: Limits
    since: datetime
    """When this process began to reconcile. Time before that is not counted: the clock may have been changed."""
    doubts: Mapping[LeaseId, Doubt] = field(default_factory=dict)
    """Objections to new machines, this listing included."""
    idle: Mapping[LeaseId, datetime] = field(default_factory=dict)
    """When the series of listings of idle machines began that are not stored: see `idleness.after_listing`."""
    unanswered: Mapping[LeaseId, Unanswered] = field(default_factory=dict)
    extensions: Mapping[LeaseId, BookingRecord] = field(default_factory=dict)
    """The extensions whose outcome is not known yet."""
    credit_unchanged: bool = False
    """The account's credit has not changed for a minute: no unknown machine is being billed."""
    vouched: bool = False
    """Whether the other listing of the account shows that the account answers truthfully (see vouching.py)."""
    mounted: Collection[str] = ()
    """The volumes that listed, running machines of the account mount."""
    label_of: Callable[[Lease], str] | None = None
    """The label that a machine should have; None: labels are not looked at."""
    check_key: str = ""
    """The public key that SSH must let in, if the machine was rented with it; "": SSH's greeting is enough."""
