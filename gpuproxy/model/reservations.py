"""One caller's group of leases, what came of each, and the state that follows from them.

The state of a reservation is derived from its leases and stored only so that lists can filter by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuproxy.model.leases import LIVE, RENTED, UNRESOLVED, Lease, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId
from gpuproxy.model.owners import Owner, OwnerId

DESTROYED = "DESTROYED"
"""Why a machine is given back that its owner destroyed."""
RELEASED = "RELEASED"
"""Why a reservation is closed that its owner gave back."""
NOT_READY = "NOT_READY"
"""Why a machine is given back that did not get ready."""
WRONG_GPU = "WRONG_GPU"
"""Why a machine is given back that is another one than was offered."""
IMAGE_UNUSABLE = "IMAGE_UNUSABLE"
"""Why a machine is given back whose image, registry or entry point can't work on any host; no more are rented then."""
HOST_BROKEN = "HOST_BROKEN"
"""Why a machine is given back whose host says that it can't run it."""
COMMON_CAUSE = "COMMON_CAUSE"
"""Why no more machines are rented: on several hosts they failed alike."""
REPLACEMENT_LIMIT = "REPLACEMENT_LIMIT"
"""Why no more machines are rented: as many as are allowed were rented in the reservation's name."""


class ReservationState(StrEnum):
    """What clients see."""

    PENDING = "pending"  # an outcome is still open
    STARTING = "starting"  # all are kept, some are not ready yet
    ACTIVE = "active"  # all GPUs are ready
    PARTIAL = "partial"  # fewer are kept than were asked for
    RELEASING = "releasing"
    RELEASED = "released"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """One choice of the balancer and its reason, in a few words."""

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
    """Offers that the filters were applied to."""
    eligible: int
    rejected: tuple[tuple[str, int], ...]
    """How many offers each filter turned away, by the filter's name."""
    sizes: tuple[int, ...]
    picks: tuple[Pick, ...]
    top: tuple[Pick, ...]
    """The best few candidates for the first size, best first."""
    cheapest_alternative: Micro | None
    """Per hour, for the same count, had the cheapest been taken."""
    notes: tuple[str, ...] = ()
    """What else shaped the choice, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error that a finished call ended with, kept so that a repeat of its request_id gets the same answer."""

    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One row of the books; times are aware UTC."""

    id: ReservationId
    project: str
    request_id: str
    fingerprint: str
    count: int
    least: int
    """With fewer GPUs than this kept, everything is given back."""
    keep: bool
    """What exists after the answer, or after the caller is gone, is kept."""
    strategy: str
    labels: tuple[tuple[str, str], ...]
    created_at: datetime
    expires_at: datetime | None
    version: int
    replace_unready: bool
    """A machine that never gets ready is released (and replaced while the caller waits)."""
    ready_timeout_s: float
    owner: str
    """The process that is working on the call."""
    key_id: str = ""
    """The API key that asked for it; empty where nobody's key did."""
    stopped: str = ""
    """Why no more machines are rented although some are missing, an upper-case constant; empty while that is open."""
    settled_at: datetime | None = None
    """No further create will be started after this."""
    answered_at: datetime | None = None
    """The caller has the answer, or will never have one."""
    closing: str = ""
    """Why everything is being given back; empty while it is not."""
    failure: Failure | None = None
    decision: Decision | None = None
    message: str = ""
    state: ReservationState = ReservationState.PENDING

    @property
    def as_owner(self) -> Owner:
        """The reservation as an owner of leases."""
        return Owner(
            kind="reservation",
            id=OwnerId(self.id),
            project=self.project,
            gpus=self.count,
            strategy=self.strategy,
            wanted_until=self.expires_at,
            waits=self.keep or self.answered_at is None,
            concluded=self.settled_at is not None,
            closing=self.closing,
            stopped=self.stopped,
            replace_unready=self.replace_unready,
            ready_timeout_s=self.ready_timeout_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationView:
    """A reservation with its leases in order of attempt, and what each has cost so far."""

    reservation: Reservation
    leases: tuple[Lease, ...]
    costs: tuple[Micro, ...]

    @property
    def kept(self) -> tuple[Lease, ...]:
        """The leases whose machines the caller has."""
        return tuple(lease for lease in self.leases if lease.state in RENTED)


def derived_state(reservation: Reservation, leases: Sequence[Lease]) -> ReservationState:
    """The state that follows from the leases."""
    live = [lease for lease in leases if lease.state in LIVE]
    if reservation.closing:
        if live:
            return ReservationState.RELEASING
        return ReservationState.FAILED if reservation.failure else ReservationState.RELEASED
    if reservation.settled_at is None or any(lease.state in UNRESOLVED for lease in live):
        return ReservationState.PENDING
    kept = [lease for lease in live if lease.state in RENTED]
    if not kept:
        return _state_without_machines(leases, live)
    if sum(lease.num_gpus for lease in kept) < reservation.count:
        return ReservationState.PARTIAL
    ready = all(lease.state is LeaseState.ACTIVE for lease in kept)
    return ReservationState.ACTIVE if ready else ReservationState.STARTING


def _state_without_machines(leases: Sequence[Lease], live: Sequence[Lease]) -> ReservationState:
    if live:
        return ReservationState.RELEASING
    had_one = any(lease.instance_id is not None for lease in leases)
    return ReservationState.RELEASED if had_one else ReservationState.FAILED


NOT_ATTEMPTED = "NOT_ATTEMPTED"

_OUTCOMES = {
    LeaseState.REQUESTED: "pending",
    LeaseState.STARTING: "reserved",
    LeaseState.ACTIVE: "reserved",
    LeaseState.PARKED: "reserved",
}


def outcome_word(lease: Lease) -> str:
    """The lease as an outcome of its call, in the contract's words."""
    if lease.state is LeaseState.FAILED and lease.reason == NOT_ATTEMPTED:
        return "not_attempted"
    return _OUTCOMES.get(lease.state, lease.state.value)
