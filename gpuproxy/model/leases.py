"""The states of a lease: the durable record of one attempt to rent one offer, and of the paid instance it created.

The table below has all events that affect a machine. An event without an entry is illegal: it raises and changes
nothing. The diagram in docs/reservations.md is generated from the table. `unknown` means that a create may or may not
have happened; such a lease is never retried, and a missing answer alone never makes it `failed`.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NewType

from gpuproxy.model.errors import IllegalTransition
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId, ProviderName
from gpuproxy.model.owners import OwnerId
from gpuproxy.model.reasons import Reason

LeaseId = NewType("LeaseId", str)
ReservationId = NewType("ReservationId", str)
InstanceId = NewType("InstanceId", str)
"""The provider's contract id."""


class LeaseState(StrEnum):
    """The state of a lease. The database stores the values."""

    REQUESTED = "requested"  # the intent is committed; the create is not answered yet
    UNKNOWN = "unknown"  # the create may have happened
    STARTING = "starting"  # the instance exists and is paid for
    ACTIVE = "active"  # the machine runs and answers
    PARKED = "parked"  # stopped at the provider; its storage is still billed
    RELEASING = "releasing"  # being destroyed; billed until proven gone
    RELEASED = "released"  # proven gone, or proven never created
    FAILED = "failed"  # proven not created
    LOST = "lost"  # the provider took it away


class LeaseEvent(StrEnum):
    """An event of a lease. The database stores the values."""

    CREATED = "created"
    REFUSED = "refused"
    NOT_ATTEMPTED = "not_attempted"
    REPLY_LOST = "reply_lost"
    DEFERRED = "deferred"  # the provider's rate limit refused the create unprocessed; it is sent again
    FOUND = "found"
    ABSENT = "absent"
    READY = "ready"
    FALTERED = "faltered"  # the machine was ready, and the marketplace says that it no longer runs
    PARKED = "parked"
    WOKEN = "woken"
    RELEASE = "release"
    VANISHED = "vanished"
    ENDED = "ended"  # the booking was over, and the marketplace has ended the machine
    GONE = "gone"
    REAPPEARED = "reappeared"


KeysState = Literal["", "pending", "unregistered", "registered", "refused"]
"""Whether the marketplace has the machine's SSH keys. "": there are none, or the marketplace takes none.

pending: the machine's readiness waits for them. unregistered: it no longer waits, but they are still tried.
"""

Billed = Literal["nothing", "disk", "all"]
LeaseKind = Literal["machine", "volume"]
KINDS: tuple[LeaseKind, ...] = ("machine", "volume")
"""A volume is leased like a machine: same states, intents, meters and proofs. It has no GPUs."""

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
        _E.ENDED: _S.RELEASED,
    },
    _S.ACTIVE: {
        _E.FALTERED: _S.STARTING,
        _E.PARKED: _S.PARKED,
        _E.RELEASE: _S.RELEASING,
        _E.VANISHED: _S.LOST,
        _E.ENDED: _S.RELEASED,
    },
    _S.PARKED: {
        _E.WOKEN: _S.STARTING,
        _E.RELEASE: _S.RELEASING,
        _E.VANISHED: _S.LOST,
        _E.ENDED: _S.RELEASED,
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

_NOTHING = Micro(0)

NO_ROOM = "unsupported no_room"
"""The word of a part of the boot script that was left out, because the launch has no room for it."""
BOOT_REQUESTED = "requested"
"""The state of a part of the boot script whose report has not been read yet."""
BOOT_NOT_REPORTED = "not reported"
"""The state of a part that the machine's log does not mention."""

UNRESOLVED = frozenset({_S.REQUESTED, _S.UNKNOWN})
"""States of a create without an outcome: it leaves them for good once there is one."""
LOCKS_KEYS = frozenset({_S.REQUESTED, _S.UNKNOWN, _S.STARTING, _S.ACTIVE})
"""States in which a lease has exclusive keys, so that no other lease can rent the same GPUs."""
LIVE = frozenset({_S.REQUESTED, _S.UNKNOWN, _S.STARTING, _S.ACTIVE, _S.PARKED, _S.RELEASING})
"""States that count as load on the host, and that the reconciler handles."""
RENTED = frozenset({_S.STARTING, _S.ACTIVE, _S.PARKED})
"""States in which the caller has a machine."""
KEEPABLE = LOCKS_KEYS | RENTED
"""States whose GPUs count towards the requested number."""
TERMINAL = frozenset(_S) - LIVE


def after(state: LeaseState, event: LeaseEvent) -> LeaseState:
    """The state after `event`; raises IllegalTransition if `state` does not allow it."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"the event {event} is not allowed for a lease in the state {state}") from None


@dataclass(frozen=True, slots=True)
class SshAddress:
    """An address at which the machine's SSH may answer, and the user that logs in there."""

    host: str
    port: int
    user: str = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """The public address of a container port."""

    container_port: int
    protocol: str
    host: str
    public_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What the marketplace offered. It never changes."""

    offer_id: OfferId
    host: HostKey
    conflict_keys: tuple[str, ...]
    """The exclusive keys of the offer. Two leases in a state of LOCKS_KEYS never share one."""
    gpu_model: str
    num_gpus: int
    vram_gb: int
    location: str
    disk_gb: float = 0.0
    reliability_ppm: int = 0
    verified: bool = False
    cuda_max: float = 0.0
    host_gpus: int = 0
    """The number of GPUs of the whole host; 0 if the marketplace doesn't say."""
    extras: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """What the create call asked for, and when it was sent."""

    ceiling: Micro
    """The highest price that the caller accepts, in micro-dollars per hour. A warm pool may change it later."""
    call_started_at: datetime | None = None
    call_deadline: datetime | None = None
    """Until then, no other process may decide what came of the call."""
    run_mode: str = "ssh"
    """How the machine was launched, which decides what must answer. "": a lease of an older version, unknown."""
    asked_ports: tuple[int, ...] = ()
    """The container ports that the caller wants to reach."""
    ssh_keys: tuple[str, ...] = ()
    """The public keys that must be able to log in."""
    volume: str = ""
    """The provider's id of the volume that the machine mounts; "": none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the marketplace and the probes have shown of the machine. Prices are micro-dollars per hour."""

    price: Micro
    """The total price: first of the offer, later of the provider's listing."""
    disk_price: Micro
    """The part of `price` that is billed as long as the instance exists."""
    billed: Billed = "disk"
    """What the provider bills in its last reported status: all while running, nothing while the host is offline."""
    seen_at: datetime | None = None
    """The time of the first listing that showed the instance."""
    priced_at: datetime | None = None
    """The time of the first listing that gave its price, which is checked then."""
    status_message: str = ""
    """The provider's own status text."""
    ssh_host: str = ""
    ssh_port: int = 0
    ssh_user: str = "root"
    ports: tuple[PortMapping, ...] = ()
    ready_at: datetime | None = None
    ready_evidence: str = ""
    """What was seen when the machine became ready: "ssh greets", "port 8000 accepts"."""
    faltered_at: datetime | None = None
    """Since when a machine that was ready no longer runs, according to the provider; None while it runs."""
    boot: tuple[tuple[str, str], ...] = ()
    """The parts of the boot script and what became of each, sorted by part."""
    contract_ends_at: datetime | None = None
    """When the marketplace's contract ends: the machine stops then, whatever the lease says."""
    contract_warned_at: datetime | None = None
    """Since when the contract is known to end too soon; None while it does not."""
    ending_soon_at: datetime | None = None
    """When the owner was told that the lease ends soon; None while it does not."""
    idle_since: datetime | None = None
    """The first of the unbroken series of listings that show idle GPUs; None while there is no series that counts."""
    idle_notice_at: datetime | None = None
    """When the owner was told that the machine will be released because it is idle; None while it will not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """What is still to be done with the machine, or to be proven about it."""

    missing_since: datetime | None = None
    """The time of the first believable listing without the instance; None once a listing shows it again."""
    absent_checks: int = 0
    """The number of believable listings after the quarantine that did not show the instance."""
    absent_checked_at: datetime | None = None
    destroy_at: datetime | None = None
    """When the next destroy call is due."""
    destroy_tries: int = 0
    destroy_taken_at: datetime | None = None
    """When a destroy call first succeeded."""
    gone_said_at: datetime | None = None
    """When a destroy was first answered with "no such instance"; None once a listing shows the instance again."""
    stop_at: datetime | None = None
    """From then on the machine must be stopped; it is stopped again whenever it runs. None: it may run."""
    keys_state: KeysState = ""
    new_end: datetime | None = None
    """An end that is being written to the machine's label. It counts only once it was read back there."""
    new_end_until: datetime | None = None
    """Until then, the label may carry `new_end`. After it, the end of the lease is written again."""
    keeps_gpus: bool = False
    """While it is stopped, this server rents its GPUs for nobody else: it is to be started again."""

    @property
    def destroy_accepted_at(self) -> datetime | None:
        """When a destroy was first accepted. "No such instance" does not tell when it was destroyed."""
        return None if self.destroy_taken_at == self.gone_said_at else self.destroy_taken_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepaid:
    """What was paid in advance for the machine. All zero where the marketplace bills by use."""

    booked_hours: int = 0
    """The hours of all bookings; before the machine exists, the hours that the create books."""
    booked_until: datetime | None = None
    """When the marketplace ends the machine by itself, according to our bookings. None while there is no machine."""
    paid: Micro = _NOTHING
    """What was paid for the machine, extensions included and refunds not deducted."""
    refund_after: float | None = None
    """A destroy gives back what was paid for the time after this many seconds of use; None: nothing."""
    booking_read_at: datetime | None = None
    """When a read of the machine agreed with these numbers; None: it must be read again."""
    extend_at: datetime | None = None
    """No extension is sent before this time, because the last one failed."""
    extend_tries: int = 0
    """Extensions that failed since the last one that succeeded."""
    extend_refusal: str = ""
    """Why the machine could not be extended; empty while nothing is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease. Times are aware UTC."""

    id: LeaseId
    reservation_id: ReservationId
    project: str
    attempt: int
    provider: ProviderName
    account: str
    label: str
    """Set on the machine when it is created; unique forever."""
    state: LeaseState
    version: int
    created_at: datetime
    kind: LeaseKind = "machine"
    instance_id: InstanceId | None = None
    started_at: datetime | None = None
    """When the server learnt that the instance exists."""
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    grace_s: int = 0
    """For so many seconds after its end the machine is kept, stopped. 0: the end destroys it."""
    release_idle_s: int = 0
    """A machine that has been idle for so many seconds is released. 0: never."""
    reason: Reason = Reason.NONE
    """Why the lease failed or is being released; empty while it does neither."""
    offered: Offered
    creation: Creation
    observed: Observed
    pending: Pending = Pending()
    prepaid: Prepaid = Prepaid()

    @property
    def owner_id(self) -> OwnerId:
        """Whom the machine is rented for."""
        return OwnerId(self.reservation_id)

    @property
    def marketplace_id(self) -> str:
        """What the marketplace calls the machine or the volume; "" while nobody knows.

        Books and lists name volumes "V.777", so that no machine has the same id; the marketplace calls it 777.
        """
        native = self.instance_id or ""
        return native.rpartition(".")[2] if self.kind == "volume" else native

    @property
    def outcome_unknown(self) -> bool:
        """True when a create was sent and nobody knows whether an instance exists: released ones included."""
        return self.instance_id is None and self.state in (LeaseState.UNKNOWN, LeaseState.RELEASING)

    @property
    def is_prepaid(self) -> bool:
        """True if its cost is its bookings. Then no meter runs."""
        return self.prepaid.booked_hours > 0

    @property
    def may_exist(self) -> bool:
        """False for what was surely never created."""
        return self.instance_id is not None or self.state in LIVE


def locks_keys(lease: Lease) -> bool:
    """Whether no other lease can rent the same GPUs."""
    return lease.state in LOCKS_KEYS or (lease.state is LeaseState.PARKED and lease.pending.keeps_gpus)


def status_word(state: LeaseState) -> str:
    """The status that clients see (contract 1.2)."""
    return _STATUS_WORDS.get(state, state.value)


_STATUS_WORDS = {_S.REQUESTED: "unknown", _S.PARKED: "stopped"}
