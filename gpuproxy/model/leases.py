"""The life of a lease: our durable record of one attempt to rent one offer, and of the paid instance that came of it.

Everything that affects the machine is in the table below; a missing entry is an illegal event, which raises and
changes nothing. The README's diagram is generated from it. `unknown` means that a create may or may not have
happened: such a lease is never retried, and no duration of silence turns it into a failure.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType

from gpuproxy.model.errors import IllegalTransition
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId, ProviderName
from gpuproxy.model.owners import OwnerId

LeaseId = NewType("LeaseId", str)
ReservationId = NewType("ReservationId", str)
InstanceId = NewType("InstanceId", str)
"""The provider's contract id."""


class LeaseState(StrEnum):
    """Values are what the database holds."""

    REQUESTED = "requested"  # the intent is committed; the create is not answered yet
    UNKNOWN = "unknown"  # the create may have happened
    STARTING = "starting"  # the instance exists and is paid for
    ACTIVE = "active"  # it runs and answers
    PARKED = "parked"  # stopped at the provider; its storage is still billed
    RELEASING = "releasing"  # to be destroyed; billed until proven gone
    RELEASED = "released"  # proven gone, or proven never to have been
    FAILED = "failed"  # proven not created
    LOST = "lost"  # the provider took it away


class LeaseEvent(StrEnum):
    """What can happen to a lease."""

    CREATED = "created"
    REFUSED = "refused"
    NOT_ATTEMPTED = "not_attempted"
    REPLY_LOST = "reply_lost"
    DEFERRED = "deferred"  # the provider wants fewer creates and did not look at this one: it will be sent again
    FOUND = "found"
    ABSENT = "absent"
    READY = "ready"
    FALTERED = "faltered"  # it was ready, and the marketplace says that it does not run any more
    PARKED = "parked"
    WOKEN = "woken"
    RELEASE = "release"
    VANISHED = "vanished"
    GONE = "gone"
    REAPPEARED = "reappeared"


_S, _E = LeaseState, LeaseEvent

TRANSITIONS: dict[LeaseState, dict[LeaseEvent, LeaseState]] = {
    _S.REQUESTED: {
        _E.CREATED: _S.STARTING,
        _E.REFUSED: _S.FAILED,
        _E.NOT_ATTEMPTED: _S.FAILED,
        _E.REPLY_LOST: _S.UNKNOWN,
        _E.DEFERRED: _S.REQUESTED,
        _E.FOUND: _S.STARTING,
        _E.RELEASE: _S.RELEASING,
    },
    _S.UNKNOWN: {
        _E.CREATED: _S.STARTING,
        _E.FOUND: _S.STARTING,
        _E.ABSENT: _S.FAILED,
        _E.RELEASE: _S.RELEASING,
    },
    _S.STARTING: {
        _E.READY: _S.ACTIVE,
        _E.PARKED: _S.PARKED,
        _E.RELEASE: _S.RELEASING,
        _E.VANISHED: _S.LOST,
    },
    _S.ACTIVE: {
        _E.FALTERED: _S.STARTING,
        _E.PARKED: _S.PARKED,
        _E.RELEASE: _S.RELEASING,
        _E.VANISHED: _S.LOST,
    },
    _S.PARKED: {
        _E.WOKEN: _S.STARTING,
        _E.RELEASE: _S.RELEASING,
        _E.VANISHED: _S.LOST,
    },
    _S.RELEASING: {
        _E.CREATED: _S.RELEASING,
        _E.FOUND: _S.RELEASING,
        _E.REPLY_LOST: _S.RELEASING,
        _E.REFUSED: _S.RELEASED,
        _E.NOT_ATTEMPTED: _S.RELEASED,
        _E.ABSENT: _S.RELEASED,
        _E.GONE: _S.RELEASED,
    },
    _S.RELEASED: {_E.REAPPEARED: _S.RELEASING},
    _S.FAILED: {_E.REAPPEARED: _S.RELEASING},
    _S.LOST: {_E.REAPPEARED: _S.RELEASING},
}

UNRESOLVED = frozenset({_S.REQUESTED, _S.UNKNOWN})
"""States of a create without an outcome: it leaves them for good once there is one."""
LOCKS_KEYS = frozenset({_S.REQUESTED, _S.UNKNOWN, _S.STARTING, _S.ACTIVE})
"""States in which a lease keeps others from its exclusive thing."""
LIVE = frozenset({_S.REQUESTED, _S.UNKNOWN, _S.STARTING, _S.ACTIVE, _S.PARKED, _S.RELEASING})
"""States that count as load on the host and that the reconciler still has work with."""
RENTED = frozenset({_S.STARTING, _S.ACTIVE, _S.PARKED})
"""States in which the caller has a machine."""
KEEPABLE = LOCKS_KEYS | RENTED
"""States whose GPUs count towards what the caller asked for."""
TERMINAL = frozenset(_S) - LIVE


def after(state: LeaseState, event: LeaseEvent) -> LeaseState:
    """The state that `event` leads to; IllegalTransition when it may not happen in `state`."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"a lease that is {state} can't be {event}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One row of the books. Prices are per hour for the whole instance; times are aware UTC."""

    id: LeaseId
    reservation_id: ReservationId
    project: str
    attempt: int
    provider: ProviderName
    account: str
    label: str
    """Stamped on the machine at birth; unique for ever."""
    offer_id: OfferId
    host: HostKey
    conflict_keys: tuple[str, ...]
    """The offer's: no two leases that hold an offer share one."""
    gpu_model: str
    num_gpus: int
    vram_gb: int
    location: str
    price: Micro
    """All-in: as offered, then as the provider's listing says."""
    disk_price: Micro
    """The part of `price` that is billed whenever the instance exists."""
    ceiling: Micro
    """The most that the caller agreed to pay."""
    state: LeaseState
    version: int
    created_at: datetime
    call_started_at: datetime | None = None
    call_deadline: datetime | None = None
    """Nobody else judges the call before this."""
    instance_id: InstanceId | None = None
    started_at: datetime | None = None
    """When we learnt that the instance exists."""
    seen_at: datetime | None = None
    """First listing that showed it."""
    priced_at: datetime | None = None
    """First listing that gave its price, which is checked then."""
    billed: Literal["nothing", "disk", "all"] = "disk"
    """What the provider bills, by the last status it gave: GPUs only while running, nothing while the host is away."""
    ready_at: datetime | None = None
    faltered_at: datetime | None = None
    """Since when a machine that was ready does not run, by the provider's word; None while it is well."""
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    missing_since: datetime | None = None
    """First believable listing without it; cleared when it shows up again."""
    absent_checks: int = 0
    """Believable listings after the quarantine that did not show it."""
    absent_checked_at: datetime | None = None
    destroy_at: datetime | None = None
    """When the next destroy call is due."""
    destroy_tries: int = 0
    destroy_taken_at: datetime | None = None
    """When a destroy was first answered with anything but an error."""
    gone_said_at: datetime | None = None
    """When a destroy was first answered with "there is no such instance"; None once a listing shows it again."""
    stop_at: datetime | None = None
    """From then on the machine is to hold no GPU, and is stopped again whenever it does; None: it may run."""
    reason: str = ""
    """Upper-case constant: why it failed or is being released."""
    status_message: str = ""
    """The provider's own words."""
    ssh_host: str = ""
    ssh_port: int = 0
    ports: tuple["PortMapping", ...] = ()
    extras: tuple[tuple[str, str], ...] = ()
    disk_gb: float = 0.0
    reliability_ppm: int = 0
    verified: bool = False
    cuda_max: float = 0.0
    host_gpus: int = 0
    """GPUs of the whole host; 0 where the marketplace does not say."""

    @property
    def owner_id(self) -> OwnerId:
        """Whom the machine is rented for."""
        return OwnerId(self.reservation_id)

    @property
    def outcome_unknown(self) -> bool:
        """True when a create was sent and nobody knows whether an instance exists: released ones included."""
        return self.instance_id is None and self.state in (LeaseState.UNKNOWN, LeaseState.RELEASING)

    @property
    def may_exist(self) -> bool:
        """False for what was surely never created."""
        return self.instance_id is not None or self.state in LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """Where a port of the container is reached from outside."""

    container_port: int
    protocol: str
    host: str
    public_port: int


def status_word(state: LeaseState) -> str:
    """What clients see (contract 1.2)."""
    return _STATUS_WORDS.get(state, state.value)


_STATUS_WORDS = {_S.REQUESTED: "unknown", _S.PARKED: "stopped"}
