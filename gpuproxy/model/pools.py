"""Warm pools: a primary machine, a stopped standby on the same host, and one volume that both mount.

The table below has all changes of a pool's state. An event without an entry is illegal: it raises and changes nothing.
The diagram in docs/warm-pool.md is generated from the table. Cleanup works from every state.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NewType

from gpuproxy.model.demands import DEFAULT_IMAGE, RegistryAuth
from gpuproxy.model.errors import IllegalTransition
from gpuproxy.model.leases import Lease, LeaseId, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import DEFAULT_DISK_GB, HostKey, ProviderName

PoolId = NewType("PoolId", str)

NO_HOST = HostKey("")
_NOTHING = Micro(0)
DEFAULT_VOLUME_GB = 100
DEFAULT_MOUNT_PATH = "/data"
DEFAULT_KEEP_FAILED = timedelta(hours=24)
DEFAULT_MIN_GPUS = 2


class PoolState(StrEnum):
    """The state of a pool, as clients see it. The database stores the values."""

    DISABLED = "disabled"  # no supervision and no standby; a primary and a volume may remain
    SEARCHING = "searching"  # a host is searched
    PROVISIONING = "provisioning"  # volume, primary and standby are being made
    ACTIVE = "active"  # the standby can take over
    FAILOVER = "failover"  # the standby is taking over
    DEGRADED = "degraded"  # nothing could take over now, or the primary is lost


class PoolEvent(StrEnum):
    """An event of a pool. The database stores the values."""

    ENABLE = "enable"
    PROVISION = "provision"
    HOST_FOUND = "host_found"
    NO_HOST = "no_host"
    PROVISIONED = "provisioned"
    FAILED = "failed"
    PRIMARY_LOST = "primary_lost"
    STANDBY_LOST = "standby_lost"
    STANDBY_READY = "standby_ready"
    TEST = "test"
    PROMOTED = "promoted"  # the successor has no standby yet
    PROMOTED_WITH_STANDBY = "promoted_with_standby"  # a test: the roles are swapped
    DISABLE = "disable"
    CLEANUP = "cleanup"


_S, _E = PoolState, PoolEvent

TRANSITIONS: dict[PoolState, dict[PoolEvent, PoolState]] = {
    _S.DISABLED: {
        _E.ENABLE: _S.SEARCHING,
        _E.PROVISION: _S.PROVISIONING,
        _E.CLEANUP: _S.DISABLED,
    },
    _S.SEARCHING: {
        _E.HOST_FOUND: _S.PROVISIONING,
        _E.NO_HOST: _S.DEGRADED,
        _E.DISABLE: _S.DISABLED,
        _E.CLEANUP: _S.DISABLED,
    },
    _S.PROVISIONING: {
        _E.PROVISIONED: _S.ACTIVE,
        _E.FAILED: _S.DEGRADED,
        _E.DISABLE: _S.DISABLED,
        _E.CLEANUP: _S.DISABLED,
    },
    _S.ACTIVE: {
        _E.PRIMARY_LOST: _S.FAILOVER,
        _E.STANDBY_LOST: _S.DEGRADED,
        _E.TEST: _S.FAILOVER,
        _E.DISABLE: _S.DISABLED,
        _E.CLEANUP: _S.DISABLED,
    },
    _S.FAILOVER: {
        _E.PROMOTED_WITH_STANDBY: _S.ACTIVE,
        _E.PROMOTED: _S.DEGRADED,
        _E.FAILED: _S.DEGRADED,
        _E.CLEANUP: _S.DISABLED,
    },
    _S.DEGRADED: {
        _E.STANDBY_READY: _S.ACTIVE,
        _E.HOST_FOUND: _S.PROVISIONING,
        _E.PROVISION: _S.PROVISIONING,
        _E.PRIMARY_LOST: _S.FAILOVER,
        _E.DISABLE: _S.DISABLED,
        _E.CLEANUP: _S.DISABLED,
    },
}


def after(state: PoolState, event: PoolEvent) -> PoolState:
    """The state after `event`; raises IllegalTransition if `state` does not allow it."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"the event {event} is not allowed for a warm pool in the state {state}") from None


class Degraded(StrEnum):
    """Why nothing could take over now. The database stores the values, and clients read them."""

    NONE = ""
    NO_STANDBY = "no_standby"  # the standby is missing or still being made
    NO_FREE_GPU = "no_free_gpu"  # the standby's GPUs are rented to another customer
    UNCHECKED = "unchecked"  # nobody could look for 60 s whether the standby's GPUs are free
    HOST_OFFLINE = "host_offline"  # the marketplace does not reach the host; it proves nothing about the primary
    UNREACHABLE = "unreachable"  # the marketplace says that the primary runs, and it does not answer for minutes
    STOPPED_OUTSIDE = "stopped_outside"  # somebody stopped the primary without this server
    NOT_FENCED = "not_fenced"  # another machine, mostly the old primary, is not proven stopped
    LOCK_HELD = "lock_held"  # another machine holds the lock of the volume
    VOLUME_LOST = "volume_lost"  # the marketplace has deleted the volume, and its data
    WRONG_VOLUME = "wrong_volume"  # what is mounted is not this pool's volume
    NO_HOST = "no_host"  # no host has room for a pool
    PROVISION_FAILED = "provision_failed"
    START_FAILED = "start_failed"  # no machine could take over
    CONTRACT_ENDS = "contract_ends"  # the marketplace's contract ends within 72 h
    LOW_CREDIT = "low_credit"  # the account's credit is enough for less than 24 h
    SECRETS_UNAVAILABLE = "secrets_unavailable"  # the key of the stored secrets is missing
    OVER_BUDGET = "over_budget"  # its machines were stopped, because a spending limit does not allow them
    UNKNOWN_OUTCOME = "unknown_outcome"  # a create may have happened; nothing is started before it is resolved

    @property
    def sentence(self) -> str:
        """What is wrong, for people."""
        return _SENTENCES[self]


_SENTENCES: dict[Degraded, str] = {
    Degraded.NONE: "",
    Degraded.NO_STANDBY: "There is no standby. A new one is made as soon as the host has free GPUs.",
    Degraded.NO_FREE_GPU: "The standby's GPUs are rented to another customer of the marketplace.",
    Degraded.UNCHECKED: "For 60 s nobody could look whether the standby's GPUs are free.",
    Degraded.HOST_OFFLINE: "The marketplace does not reach the host. That proves nothing about the primary.",
    Degraded.UNREACHABLE: "The marketplace says that the primary runs, but it does not answer.",
    Degraded.STOPPED_OUTSIDE: "The primary was stopped, and not by this server.",
    Degraded.NOT_FENCED: "Another machine of the pool is not proven stopped, so nothing may write to the volume.",
    Degraded.LOCK_HELD: "Another machine holds the lock of the volume.",
    Degraded.VOLUME_LOST: "The marketplace has deleted the volume. Its data is lost, and nothing can take over.",
    Degraded.WRONG_VOLUME: "What is mounted on the primary is not this pool's volume.",
    Degraded.NO_HOST: "No host has room for a primary, a standby and the volume at this price.",
    Degraded.PROVISION_FAILED: "The pool could not be made.",
    Degraded.START_FAILED: "No machine could take over.",
    Degraded.CONTRACT_ENDS: "The marketplace's contract ends within 72 hours.",
    Degraded.LOW_CREDIT: "The account's credit is enough for less than 24 hours.",
    Degraded.SECRETS_UNAVAILABLE: "The key of the stored secrets is missing, so no machine can be launched.",
    Degraded.OVER_BUDGET: "A spending limit does not allow the pool to run on. Its machines were stopped.",
    Degraded.UNKNOWN_OUTCOME: "The outcome of a create is unknown. Nothing is started before it is resolved.",
}

Mode = Literal["", "shared", "recreate"]
"""shared: primary and stopped standby mount the volume. recreate: there is no standby, and failover makes a machine.

"" as a wish: shared if the marketplace allows it.
"""
CrossHost = Literal["", "empty"]
DataState = Literal["", "same_volume", "restored", "empty"]
Wanted = Literal["supervised", "disabled", "gone"]
IncidentKind = Literal["failure", "manual", "test", "drill"]
LateStart = tuple[LeaseId, datetime]
"""The machine of a start without a clear answer, and until when the marketplace may still carry it out."""
Phase = Literal["detect", "fence", "start", "reachable", "promote"]
PHASES: tuple[Phase, ...] = ("detect", "fence", "start", "reachable", "promote")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSecrets:
    """What is stored only encrypted."""

    secret_env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    registry_auth: RegistryAuth | None = None

    def __bool__(self) -> bool:
        """True if there is a secret."""
        return bool(self.secret_env) or self.registry_auth is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """What a pool is made of, as it was asked for. Sizes are in GB."""

    gpu_model: str = ""
    """Any spelling; "": whatever the host has."""
    num_gpus: int = 1
    """GPUs of each machine."""
    image: str = DEFAULT_IMAGE
    disk_gb: int = DEFAULT_DISK_GB
    volume_gb: int = DEFAULT_VOLUME_GB
    mount_path: str = DEFAULT_MOUNT_PATH
    max_price: float
    """USD per GPU-hour."""
    price_from: str = ""
    """The setting that gave `max_price`; "": the request."""
    verified_only: bool = True
    env: tuple[tuple[str, str], ...] = ()
    onstart: str = ""
    ports: tuple[int, ...] = ()
    ssh_public_keys: tuple[str, ...] = ()
    mode: Mode = ""
    health: str = ""
    """How the primary is probed: tcp, ssh, or an http URL. "": ssh, or tcp without SSH."""
    cross_host: CrossHost = ""
    keep_failed: timedelta = DEFAULT_KEEP_FAILED
    hold_gpu: bool = False
    drill_every: timedelta | None = None
    drill_window: tuple[int, int] = (0, 24)
    """Hours of the day (UTC) between which drills begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One warm pool. Times are aware UTC. `last_*` and `failover_count` are of failovers, tests included."""

    id: PoolId
    project: str
    machine_id: int
    """The caller's own number, unique within the project."""
    ledger: ReservationId
    """The reservation that has the pool's leases. It is replaced once all of them are gone after a cleanup."""
    version: int = 1
    state: PoolState = PoolState.DISABLED
    wanted: Wanted = "disabled"
    created_at: datetime
    key_id: str = ""
    spec: PoolSpec
    sealed: str = field(default="", repr=False)
    """The encrypted PoolSecrets; "": there are none."""
    nonce: str
    """Is written to the volume by the first primary, so that a machine knows its pool's volume."""
    provider: ProviderName
    account: str = ""
    host: HostKey = NO_HOST
    """Empty while a host is searched."""
    seeks: bool = False
    """The server chooses the host, and goes on looking for one."""
    mode: Mode = ""
    """How it works now; "" before that is known."""
    mode_why: str = ""
    primary: LeaseId | None = None
    standby: LeaseId | None = None
    volume: LeaseId | None = None
    founded: bool = False
    """The primary was ready once, so the volume may have data."""
    failed: LeaseId | None = None
    """A failed primary that is kept stopped until `failed_until`."""
    failed_until: datetime | None = None
    degraded: Degraded = Degraded.NONE
    error: str = ""
    """What is wrong, for people."""
    progress: str = ""
    """What is being done, for people."""
    asked: Literal["", "test", "manual", "drill"] = ""
    """A failover that was asked for and has not begun."""
    asked_by: str = ""
    """The key that asked for it."""
    unfenced: bool = False
    """The failover that was asked for may begin although the old primary is not proven stopped."""
    keep_volume: bool = False
    """A cleanup keeps the volume."""
    tries: int = 0
    """Failed tries of the present step in a row."""
    next_try_at: datetime | None = None
    step_began_at: datetime | None = None
    """Since when the present step runs; its time limit counts from here."""
    checked_at: datetime | None = None
    """When the standby's GPUs were last seen rentable."""
    looked_at: datetime | None = None
    """When somebody last looked successfully whether they are."""
    misses: int = 0
    """Looks in a row that did not find them."""
    late_starts: tuple[LateStart, ...] = ()
    """Starts without a clear answer that the marketplace may still carry out."""
    unanswered: tuple[LeaseId, datetime] | None = None
    """The machine of the last start, and when it is stopped if no answer and no listing shows that it was started."""
    fence: Literal["", "api_only", "api_and_lock"] = ""
    data_state: DataState = ""
    failover_count: int = 0
    last_failover_at: datetime | None = None
    detected_after_s: float | None = None
    recovery_s: float | None = None
    outage_s: float | None = None
    next_drill_at: datetime | None = None

    @property
    def host_number(self) -> int | None:
        """The host's number at the marketplace; None while a host is searched."""
        native = self.host.rpartition("/")[2]
        return int(native) if native.isdecimal() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One change of a pool's state, as it is stored. `seq` grows within the pool."""

    seq: int
    at: datetime
    before: PoolState
    after: PoolState
    event: PoolEvent
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One failover, from what caused it to its end. There is at most one open incident of a primary."""

    pool_id: PoolId
    number: int
    """Counts the incidents of the pool, from 1."""
    kind: IncidentKind
    primary: LeaseId
    asked_by: str = ""
    """The key that asked for it; "": nobody."""
    unfenced: bool = False
    began_at: datetime
    """When the third failure in a row was seen, or when it was asked for."""
    last_good_at: datetime | None = None
    """The last probe that the primary answered."""
    stop_sent_at: datetime | None = None
    fenced_at: datetime | None = None
    """When the old primary was proven stopped or gone."""
    rung: int = 0
    """The rung of the ladder that is being tried."""
    successor: LeaseId | None = None
    start_sent_at: datetime | None = None
    running_at: datetime | None = None
    reachable_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: Literal["", "promoted", "failed", "recovered"] = ""
    """recovered: the primary became healthy again, and nothing took over."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverTimes:
    """How long finished failovers took, in seconds; `phases` has a value for each of PHASES that took place."""

    at: datetime
    kind: IncidentKind
    total: float
    phases: tuple[tuple[Phase, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """A pool with what it has now."""

    pool: Pool
    primary: Lease | None = None
    standby: Lease | None = None
    volume: Lease | None = None
    retained: tuple[Lease, ...] = ()
    """Volumes that remain and are billed although the pool no longer uses them."""
    machines: tuple[Lease, ...] = ()
    """All its live leases, volumes included."""
    transitions: tuple[Transition, ...] = ()
    """The newest, oldest first."""
    seq: int = 0
    """The sequence number of the last transition; 0: there is none."""
    incident: Incident | None = None
    """The open incident."""
    failovers: tuple[FailoverTimes, ...] = ()
    """The newest finished failovers, oldest first."""
    health_checked_at: datetime | None = None
    """When the primary was last probed."""
    price: Micro = _NOTHING
    """Per hour, of everything now."""
    cost: Micro = _NOTHING
    """Of everything since it was first provisioned."""
    next_action: str = ""
    """What the server does next, or what the owner can do, for people."""
