"""What a plan is made from and what it consists of: values only; `reconcile` makes them, `observe` applies them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from gpuproxy.model.leases import InstanceId, Lease, LeaseEvent, LeaseId
from gpuproxy.model.owners import Owner, OwnerId
from gpuproxy.ports import Capabilities
from gpuproxy.reconcile.doubts import Doubt, Unanswered
from gpuproxy.reconcile.listings import Listing
from gpuproxy.runtime.limits import Limits

NEVER_READY = "it did not get ready"
"""What an outcome says then, before the marketplace's last words."""


@dataclass(frozen=True, slots=True)
class Advance:
    """The lease goes through an event."""

    lease: Lease
    event: LeaseEvent
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adopt:
    """The instance turned out to be the lease's."""

    lease: Lease
    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class Note:
    """Facts that are no event."""

    lease: Lease
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Destroy:
    """Ask the provider to destroy the instance."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the provider to stop the instance: it runs although it is to be stopped."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask for the instance by id: the listing no longer shows it."""

    lease: Lease
    alone: bool = False
    """The listing can't be relied on: it takes two answers, some time apart."""


@dataclass(frozen=True, slots=True)
class Knock:
    """See whether the machine answers."""

    lease: Lease
    kind: Literal["tcp", "ssh"]
    host: str
    port: int
    late: bool = False
    """It should be ready by now: probes that are not answered count."""


Step = Advance | Adopt | Note | Destroy | Stop | Confirm | Knock


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a plan is made from."""

    leases: Sequence[Lease]
    """Every live lease of the account."""
    owners: Mapping[OwnerId, Owner]
    """Of all these leases."""
    listing: Listing | None
    now: datetime
    capabilities: Capabilities
    limits: Limits
    since: datetime
    """When this process began to look: how much time had really passed before, no date can prove."""
    doubts: Mapping[LeaseId, Doubt] = field(default_factory=dict)
    """What speaks against fresh machines, this listing included."""
    unanswered: Mapping[LeaseId, Unanswered] = field(default_factory=dict)
    second_word: bool = False
    """Another endpoint of the provider agrees that nothing unknown is being billed."""
