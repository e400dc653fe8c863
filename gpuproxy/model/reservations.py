"""Reservations: one caller's group of leases, their outcomes, and the state derived from them.

The state is stored only so that lists can filter by it.
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
"""The reason of a machine that its owner destroyed."""
RELEASED = "RELEASED"
"""The reason of a reservation that its owner released."""
NOT_READY = "NOT_READY"
"""The reason for releasing a machine that did not get ready."""
WRONG_GPU = "WRONG_GPU"
"""The reason for releasing a machine whose GPUs are not those that were offered."""
IMAGE_UNUSABLE = "IMAGE_UNUSABLE"
"""The reason for releasing a machine whose image, registry or entry point can't work on any host. Renting stops."""
HOST_BROKEN = "HOST_BROKEN"
"""The reason for releasing a machine that its host reports it can't run."""
COMMON_CAUSE = "COMMON_CAUSE"
"""The reason for renting no more machines: they failed in the same way on several hosts."""
REPLACEMENT_LIMIT = "REPLACEMENT_LIMIT"
"""The reason for renting no more machines: the limit for one reservation is reached."""


class ReservationState(StrEnum):
    """The states that clients see."""

    PENDING = "pending"  # an outcome is unresolved
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
    """How many offers the filters were applied to."""
    eligible: int
    rejected: tuple[tuple[str, int], ...]
    """How many offers each filter rejected, by the filter's name."""
    sizes: tuple[int, ...]
    picks: tuple[Pick, ...]
    top: tuple[Pick, ...]
    """The best few candidates for the first size, best first."""
    cheapest_alternative: Micro | None
    """The hourly price of the cheapest possible choice for the same count."""
    notes: tuple[str, ...] = ()
    """What else influenced the choice, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error of a finished call, stored so that a repeat of its request_id gets the same answer."""

    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """One reservation as it is stored; times are aware UTC."""

    id: ReservationId
    project: str
    request_id: str
    fingerprint: str
    count: int
    least: int
    """If fewer GPUs than this are kept, everything is released."""
    keep: bool
    """Machines that are found after the answer, or after the caller has left, are kept."""
    strategy: str
    labels: tuple[tuple[str, str], ...]
    created_at: datetime
    expires_at: datetime | None
    version: int
    replace_unready: bool
    """A machine that does not get ready in time is released (and replaced while the caller waits)."""
    ready_timeout_s: float
    owner: str
    """The id of the server process that runs the call."""
    key_id: str = ""
    """The id of the API key of the call; empty if the call was made without a key."""
    stopped: str = ""
    """Why no more machines are rented although some are missing, an upper-case constant; empty while there is none."""
    settled_at: datetime | None = None
    """When renting was concluded: no create is started after this."""
    answered_at: datetime | None = None
    """When the call was answered, or given up without an answer."""
    closing: str = ""
    """Why everything is being released; empty while it is not."""
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
    """A reservation with its leases in the order of attempts, and the cost of each lease so far."""

    reservation: Reservation
    leases: tuple[Lease, ...]
    costs: tuple[Micro, ...]

    @property
    def kept(self) -> tuple[Lease, ...]:
        """The leases whose machines the caller has."""
        return tuple(lease for lease in self.leases if lease.state in RENTED)


def derived_state(reservation: Reservation, leases: Sequence[Lease]) -> ReservationState:
    """The state of a reservation with these leases."""
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
    """The outcome of a lease for its call, as the contract names it."""
    if lease.state is LeaseState.FAILED and lease.reason == NOT_ATTEMPTED:
        return "not_attempted"
    return _OUTCOMES.get(lease.state, lease.state.value)
