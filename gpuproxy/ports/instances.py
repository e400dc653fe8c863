"""What a provider says exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuproxy.model.leases import InstanceId, PortMapping
from gpuproxy.model.money import Micro


class InstanceStatus(StrEnum):
    """What a provider's many words come down to."""

    PENDING = "pending"  # being made or booted
    RUNNING = "running"
    STOPPED = "stopped"  # holds disk, no GPU
    BROKEN = "broken"  # could not be started; will not get better by itself
    OFFLINE = "offline"  # the host does not answer; it may come back
    UNSURE = "unsure"  # a word that we do not know


class Blame(StrEnum):
    """What a status message says can't work, whoever waits."""

    IMAGE = "image"  # the image, its registry or its entry point: it fails on every host alike
    HOST = "host"  # its disk, driver or container runtime: another host may do


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedInstance:
    """What the provider says exists. Prices per hour, whole instance."""

    id: InstanceId
    label: str | None
    status: InstanceStatus
    raw_status: str
    status_message: str = ""
    blame: Blame | None = None
    """Only where the status message surely says so; None: wait and see."""
    price: Micro | None = None
    """All-in while running; None where the provider does not say."""
    stopped_price: Micro | None = None
    """While it holds no GPU: disk only."""
    gpu_model: str = ""
    num_gpus: int = 0
    machine_id: str = ""
    created_at: datetime | None = None
    ends_at: datetime | None = None
    ssh_host: str = ""
    ssh_port: int = 0
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What one listing of an account shows."""

    instances: Sequence[ListedInstance]
    unreadable: tuple[str, ...] = ()
    """Rows that could not be read, in a few words each. While there are any, something unknown exists on the account,
    and no instance may be concluded absent because this listing does not show it."""
