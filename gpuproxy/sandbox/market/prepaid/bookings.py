"""Deployments of the prepaid market: what was ordered, what was paid, and the phase. `now` is an argument.

A deployment is paid when it is booked. Its time begins when it runs, and it ends by itself when the time is over.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from gpuproxy.sandbox.market.instances import microseconds
from gpuproxy.sandbox.market.prepaid.hardware import HardwareId

HOUR = 3600.0
Product = Literal["vm", "container"]


class Stage(StrEnum):
    """The phase of a deployment; the control API shows these words."""

    LOADING = "loading"
    RUNNING = "running"
    ENDING = "terminating"
    COMPLETED = "completed"
    FAILED = "failed"
    DESTROYED = "destroyed"


ENDED = frozenset({Stage.COMPLETED, Stage.FAILED, Stage.DESTROYED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A port of a virtual machine that is opened to some networks."""

    port: int
    protocol: str
    whitelist: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What a container deployment runs."""

    image: str
    traffic_port: int
    env: dict[str, str] = field(default_factory=dict)
    secret_env: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] | None = None
    args: list[str] | None = None
    command: str | None = None
    ingress: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The arguments of a booking. `location` None: any country."""

    product: Product
    name: str
    kind: HardwareId
    cards: int
    hours: int
    location: str | None = None
    workers: int = 1
    id: str | None = None
    """An id that the client chose."""
    ssh_keys: dict[str, str] = field(default_factory=dict)
    github_ids: list[str] = field(default_factory=list)
    image_type: str = "general"
    services: dict[str, Service] = field(default_factory=dict)
    container: Container | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaws:
    """The defects of one new deployment."""

    kind: str = ""
    """never_ready, never_reachable, host_fault, no_ssh, or "" for none."""
    message: str = ""
    """The message of a host_fault."""
    dies_after: float | None = None
    """It fails after so many seconds of being reachable; None: never."""
    model: str = ""
    """Another GPU name that its rows show."""
    price_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line in the history of a worker."""

    at: float
    message: str


@dataclass(slots=True, kw_only=True)
class Booking:
    """One deployment. Money is in micro-dollars, times are epoch seconds."""

    id: str
    number: int
    account: str
    order: Order
    model: str
    location: str
    hosts: list[str]
    """The host of each worker."""
    price: float
    """USD per hour for all workers, at the booking."""
    hours: int
    """All hours that were paid."""
    paid: int
    requested_at: float
    starts_at: float | None
    """When it will run or began to; None: never."""
    settles: float
    """Seconds of running until its addresses are known and answer."""
    refunded: int = 0
    stage: Stage = Stage.LOADING
    started_at: float | None = None
    ends_at: float | None = None
    fails_at: float | None = None
    stopped_at: float | None = None
    """When its end was requested."""
    gone_at: float | None = None
    """When it will be destroyed after that."""
    ended_at: float | None = None
    flaws: Flaws = field(default_factory=Flaws)
    events: list[Event] = field(default_factory=list)
    ports: list[dict[str, int]] = field(default_factory=list)
    """Loopback ports by name for each worker; "" is SSH or the container's web server."""
    muted_until: float = 0.0
    settled: bool = False
    """Its addresses are known."""

    @property
    def gpus(self) -> int:
        """The number of GPUs of all workers."""
        return self.order.cards * self.order.workers

    @property
    def billed(self) -> int:
        """What was paid and not refunded."""
        return self.paid - self.refunded

    def used(self, now: float) -> float:
        """Seconds of its time that have passed."""
        if self.started_at is None:
            return 0.0
        until = min(when for when in (now, self.stopped_at, self.ended_at) if when is not None)
        return min(max(0.0, until - self.started_at), self.hours * HOUR)

    def refund(self, used: float) -> int:
        """The unused part of what was paid, after so many seconds and at least one hour. Rounded down."""
        booked = microseconds(self.hours * HOUR)
        charged = min(booked, microseconds(max(HOUR, used)))
        return self.paid * (booked - charged) // booked
