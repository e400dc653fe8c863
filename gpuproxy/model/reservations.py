"""A reservation: one caller's group of leases, their outcomes, and the state derived from them.

The state of a reservation follows from its leases. It is stored only so that lists can be filtered by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuproxy.model.leases import LIVE, RENTED, UNRESOLVED, Lease, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId
from gpuproxy.model.owners import Owner, OwnerId, OwnerKind
from gpuproxy.model.reasons import Reason

_POOL_GPUS = 8
"""A pool may have this many times its usual GPUs: failed primaries are kept for a while."""


class ReservationState(StrEnum):
    """The state of a reservation, as clients see it."""

    PENDING = "pending"  # an outcome is unresolved
    STARTING = "starting"  # all are kept, some are not ready yet
    ACTIVE = "active"  # all GPUs are ready
    PARTIAL = "partial"  # fewer GPUs are kept than requested
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"


ENDED = frozenset({ReservationState.RELEASING, ReservationState.RELEASED, ReservationState.FAILED})
"""In these states a caller has no machine, and will not get one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One offer that the balancer picked, and a short reason."""

    offer_id: OfferId
    host: HostKey
    num_gpus: int
    price: Micro
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Why these offers were chosen."""

    strategy: str
    considered: int
    """The number of offers before filtering."""
    eligible: int
    rejected: tuple[tuple[str, int], ...]
    """The number of offers that each filter rejected, by the filter's name."""
    sizes: tuple[int, ...]
    picks: tuple[Pick, ...]
    top: tuple[Pick, ...]
    """The best few candidates for the first size, best first."""
    cheapest_alternative: Micro | None
    """The price per hour of what lowest_price would have chosen in the same packing, or of `picks` if that is less."""
    notes: tuple[str, ...] = ()
    """Other facts that influenced the choice, as texts for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error of a finished call. It is stored so that a repeated request_id gets the same answer."""

    reason: Reason
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One reservation. Times are aware UTC."""

    id: ReservationId
    project: str
    request_id: str
    fingerprint: str
    count: int
    least: int
    """The minimum number of GPUs. If fewer are kept, everything is released."""
    keep: bool
    """True: machines that appear after the answer, or after the caller has disconnected, are kept."""
    strategy: str
    labels: tuple[tuple[str, str], ...]
    created_at: datetime
    expires_at: datetime | None
    version: int
    replace_unready: bool
    """True: a machine that doesn't become ready is released. False: it is kept."""
    ready_timeout_s: float
    grace_s: int = 0
    """For so many seconds after its end its machines are kept, stopped. 0: the end destroys them."""
    release_idle_s: int = 0
    """A machine that has been idle for so many seconds is released. 0: never."""
    key_id: str = ""
    """The API key of the caller; empty if it used none."""
    stopped: Reason = Reason.NONE
    """An upper-case constant: why renting has stopped although machines are missing. Empty while it goes on."""
    settled_at: datetime | None = None
    """When the call was concluded; no create is started after it."""
    answered_at: datetime | None = None
    """When the caller got the answer, or could no longer get one."""
    closing: Reason = Reason.NONE
    """The reason why everything is being released; empty while it isn't."""
    failure: Failure | None = None
    decision: Decision | None = None
    message: str = ""
    state: ReservationState = ReservationState.PENDING
    kind: OwnerKind = "reservation"
    """pool: it has the machines and volumes of a warm pool, which alone decides about them."""

    @property
    def as_owner(self) -> Owner:
        """The reservation as an owner of leases."""
        return Owner(
            kind=self.kind,
            id=OwnerId(self.id),
            project=self.project,
            gpus=self.count if self.kind == "reservation" else _POOL_GPUS * self.count,
            strategy=self.strategy,
            wanted_until=self.expires_at,
            grace_s=self.grace_s,
            release_idle_s=self.release_idle_s,
            waits=self.keep or self.answered_at is None,
            concluded=self.kind == "reservation" and self.settled_at is not None,
            closing=self.closing,
            stopped=self.stopped,
            replace_unready=self.replace_unready,
            ready_timeout_s=self.ready_timeout_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationView:
    """A reservation with its leases by attempt, and the cost of each lease so far."""

    reservation: Reservation
    leases: tuple[Lease, ...]
    costs: tuple[Micro, ...]
    at: datetime | None = None
    """When it was read; None for one that was not."""
    gpu_utils: tuple[float | None, ...] = ()
    """The GPU utilisation of each lease, in percent; None where it is not known. Empty: it was not looked up."""

    @property
    def kept(self) -> tuple[Lease, ...]:
        """The leases with a machine that the caller has."""
        return tuple(lease for lease in self.leases if lease.state in RENTED)


def follows_leases(reservation: Reservation) -> bool:
    """False while its call is renting: then the state is PENDING whatever the leases are."""
    return bool(reservation.closing) or reservation.settled_at is not None


def derived_state(reservation: Reservation, leases: Sequence[Lease]) -> ReservationState:
    """The state of a reservation with these leases."""
    if not follows_leases(reservation):
        return ReservationState.PENDING
    live = [lease for lease in leases if lease.state in LIVE]
    if reservation.closing:
        if live:
            return ReservationState.RELEASING
        return ReservationState.FAILED if reservation.failure else ReservationState.RELEASED
    if any(lease.state in UNRESOLVED for lease in live):
        return ReservationState.PENDING
    kept = [lease for lease in live if lease.state in RENTED and lease.kind == "machine"]
    if reservation.kind == "pool" and any(lease.state is LeaseState.ACTIVE for lease in kept):
        return ReservationState.ACTIVE
    if not kept:
        return _state_without_machines(leases, live)
    if sum(lease.offered.num_gpus for lease in kept) < reservation.count:
        return ReservationState.PARTIAL
    ready = all(lease.state is LeaseState.ACTIVE for lease in kept)
    return ReservationState.ACTIVE if ready else ReservationState.STARTING


def _state_without_machines(leases: Sequence[Lease], live: Sequence[Lease]) -> ReservationState:
    if live:
        return ReservationState.RELEASING
    had_one = any(lease.instance_id is not None for lease in leases)
    return ReservationState.RELEASED if had_one else ReservationState.FAILED


_OUTCOMES = {
    LeaseState.REQUESTED: "pending",
    LeaseState.STARTING: "reserved",
    LeaseState.ACTIVE: "reserved",
    LeaseState.PARKED: "reserved",
}


def outcome_word(lease: Lease) -> str:
    """The outcome of a lease as the contract names it."""
    if lease.state is LeaseState.FAILED and lease.reason == Reason.NOT_ATTEMPTED:
        return "not_attempted"
    return _OUTCOMES.get(lease.state, lease.state.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """One event of a reservation or of one of its machines, for people to read."""

    seq: int
    at: datetime
    lease_id: str
    """Empty: an event of the reservation."""
    event: str
    state: str
    """After the event."""
    reason: str = ""
    instance_id: str = ""
    expires_at: datetime | None = None
    """The end of the reservation after the event."""
