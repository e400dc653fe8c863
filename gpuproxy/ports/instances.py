"""What a provider says exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuproxy.model.leases import InstanceId, PortMapping, SshAddress
from gpuproxy.model.money import Micro


class InstanceStatus(StrEnum):
    """The common statuses that each provider's own statuses are mapped to."""

    PENDING = "pending"  # being created or booted
    RUNNING = "running"
    STOPPED = "stopped"  # holds disk, no GPU
    BROKEN = "broken"  # could not be started; will not get better by itself
    OFFLINE = "offline"  # the host does not answer; it may come back
    UNSURE = "unsure"  # a status that the adapter does not know


class Blame(StrEnum):
    """What a status message names as the fault of a machine that will never get ready."""

    IMAGE = "image"  # the image, its registry or its entry point: it fails on every host alike
    HOST = "host"  # its disk, driver or container runtime: another host may do


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """Time that was paid in advance. The provider ends the machine by itself at `until`."""

    until: datetime
    paid: Micro | None = None
    """What was paid for the machine up to now, extensions included; None if this answer does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedInstance:
    """What the provider says exists. Prices per hour, whole instance."""

    id: InstanceId
    label: str | None
    """As `create` got it: the reconciler takes off the end that a label of ours may carry."""
    status: InstanceStatus
    raw_status: str
    status_message: str = ""
    blame: Blame | None = None
    """Set only if the status message clearly names the fault; None if the machine may still get ready."""
    price: Micro | None = None
    """The whole price while running; None if the provider does not say."""
    stopped_price: Micro | None = None
    """The price while stopped: disk only."""
    gpu_model: str = ""
    num_gpus: int = 0
    gpu_util: float | None = None
    """How much its GPUs work at this moment, in percent; None if the provider does not say."""
    machine_id: str = ""
    created_at: datetime | None = None
    ends_at: datetime | None = None
    ssh: tuple[SshAddress, ...] = ()
    """Every address at which SSH may answer, the usual one first. Empty while there is none."""
    ports: tuple[PortMapping, ...] = ()
    """The public addresses of container ports. The one of SSH, if there is one, is also in `ssh`."""
    booking: Booking | None = None
    """None where the provider bills by use."""
    written_label: str | None = None
    """The label as the marketplace shows it, where the reconciler has taken its end off `label`."""
    at_rest: bool = False
    """Everything that the provider says about it agrees that it is stopped, is to be stopped, and has no start queued.

    False whenever a part is missing or unclear: then it may run, now or later.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What one listing of an account shows."""

    instances: Sequence[ListedInstance]
    unreadable: tuple[str, ...] = ()
    """Rows that could not be read, in a few words each. While there are any, something unknown exists on the account,
    and no instance may be concluded absent because this listing does not show it."""
    sent_at: float | None = None
    """When the first request was sent, after any wait for its turn: a reading of Clock.monotonic(). None: unknown."""
    ended: frozenset[str] = frozenset()
    """The labels of ended machines, where listings show them. They show whose key it is. Nothing else follows."""
