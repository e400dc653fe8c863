"""The input of a decision about a pool, and the acts that it can ask for, as values.

A decision is one act. It is performed and recorded, and then the next decision is made from what is stored. So a crash
at any point leaves something from which the same decision follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from gpuproxy.model.lease_facts import Fact
from gpuproxy.model.leases import LIVE, TERMINAL, Lease, LeaseId, LeaseState
from gpuproxy.model.pools import Degraded, Incident, Pool, PoolEvent
from gpuproxy.model.reasons import Reason
from gpuproxy.warmpool.limits import READS_APART, PoolLimits
from gpuproxy.warmpool.signals import Health

Role = Literal["primary", "standby", "successor"]
UNSEEN = Health()
SOON = 1.0
"""Seconds until a decision is made again that waits for something."""
_STOPPED_CREATE = (LeaseState.REQUESTED, LeaseState.UNKNOWN, LeaseState.RELEASING)


@dataclass(frozen=True, slots=True)
class AtRest:
    """Reads of a machine, sent after its stop was accepted, that all show it at rest."""

    first: datetime
    last: datetime

    @property
    def proves(self) -> bool:
        """True if they are far enough apart."""
        return self.last - self.first >= timedelta(seconds=READS_APART)


@dataclass(frozen=True, slots=True)
class Seek:
    """Search a host for the pool."""


@dataclass(frozen=True, slots=True)
class RentVolume:
    """Rent the pool's volume."""


@dataclass(frozen=True, slots=True)
class RentMachine:
    """Rent a machine on the pool's host that mounts the volume. Nothing else may write to the volume."""

    role: Role


@dataclass(frozen=True, slots=True)
class Fence:
    """Stop these machines, and read them until they are proven at rest."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Start a stopped machine. Nothing else may write to the volume."""

    lease: Lease
    role: Role


@dataclass(frozen=True, slots=True)
class ConfirmGone:
    """Check that no volume listing shows the vanished machine any more."""

    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Store a decision. `pool` and `incident` have the new facts; None leaves them as they are."""

    reason: str
    event: PoolEvent | None = None
    pool: Pool | None = None
    incident: Incident | None = None
    opens: bool = False
    """The incident is new."""
    facts: tuple[tuple[LeaseId, Fact], ...] = ()
    releases: tuple[tuple[LeaseId, Reason], ...] = ()
    unsent: tuple[LeaseId, ...] = ()
    """Creates that were not sent and will not be."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing is to be done now. `seconds`: until something could be, if nothing happens before."""

    seconds: float = 3600.0


Act = Seek | RentVolume | RentMachine | Fence | Start | ConfirmGone | Change | Rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The input of a decision."""

    pool: Pool
    leases: Mapping[LeaseId, Lease]
    """The live leases of the pool, and those that it names."""
    incident: Incident | None
    now: datetime
    limits: PoolLimits
    health: Health = UNSEEN
    """Of the primary."""
    at_rest: Mapping[LeaseId, AtRest] = field(default_factory=dict)
    gone: frozenset[LeaseId] = frozenset()
    """Vanished machines that no volume lists any more."""
    seen_from: datetime | None = None
    """Since when this process has seen the pool; None: for as long as it exists."""
    credit_hours: float | None = None
    """How long the account's credit is enough; None: unknown."""

    def lease(self, lease_id: LeaseId | None) -> Lease | None:
        """A lease that the pool names; None if it names none, or history has deleted it."""
        return None if lease_id is None else self.leases.get(lease_id)

    @property
    def primary(self) -> Lease | None:
        """The primary."""
        return self.lease(self.pool.primary)

    @property
    def standby(self) -> Lease | None:
        """The standby."""
        return self.lease(self.pool.standby)

    @property
    def volume(self) -> Lease | None:
        """The volume."""
        return self.lease(self.pool.volume)

    @property
    def volume_lost(self) -> bool:
        """Whether the pool's volume is proven gone."""
        return self.pool.volume is not None and (self.volume is None or self.volume.state in TERMINAL)

    @property
    def machines(self) -> tuple[Lease, ...]:
        """Its machines that may exist."""
        return tuple(each for each in self.leases.values() if each.kind == "machine" and each.state in LIVE)

    def waited(self, since: datetime | None, seconds: float) -> bool:
        """Whether so many seconds have passed."""
        return since is not None and (self.now - since).total_seconds() >= seconds

    @property
    def may_try(self) -> bool:
        """Whether a failed step may be tried again."""
        return self.pool.next_try_at is None or self.pool.next_try_at <= self.now

    @property
    def free_since_try(self) -> bool:
        """Whether the GPUs that a new try needs were seen free after the last try failed."""
        looked, tried = self.pool.looked_at, self.pool.step_began_at
        return looked is not None and tried is not None and looked > tried and self.pool.misses == 0

    def is_proven_at_rest(self, lease_id: LeaseId) -> bool:
        """Whether two reads have shown the machine at rest."""
        proof = self.at_rest.get(lease_id)
        return proof is not None and proof.proves

    def writers(self, but: LeaseId | None = None) -> tuple[Lease, ...]:
        """The pool's machines that could be running with the volume mounted, now or later, besides `but`.

        Left out: machines that are proven at rest or gone, and creates of stopped machines.
        """
        volume = self.volume
        if volume is None or volume.instance_id is None:
            return ()
        return tuple(
            each
            for each in self.leases.values()
            if each.id != but and each.creation.volume == volume.instance_id and self._may_write(each)
        )

    def _may_write(self, lease: Lease) -> bool:
        if lease.state in TERMINAL:
            return lease.state is LeaseState.LOST and lease.id == self.pool.primary and lease.id not in self.gone
        if lease.instance_id is None:
            return lease.pending.stop_at is None or lease.state not in _STOPPED_CREATE
        proof = self.at_rest.get(lease.id)
        return (
            proof is None
            or not proof.proves
            or not self._silent_since(lease, proof)
            or any(late == lease.id and proof.last < until for late, until in self.pool.late_starts)
        )

    def _silent_since(self, lease: Lease, proof: AtRest) -> bool:
        """Whether the primary was probed after the first read of the proof, and has not answered since."""
        if lease.id != self.pool.primary:
            return True
        checked, good = self.health.checked_at, self.health.good_at
        return checked is not None and checked >= proof.first and (good is None or good < proof.first)

    @property
    def trouble(self) -> Degraded:
        """Why the pool could not fail over now; NONE if it could."""
        return _trouble(self)


def _trouble(s: Scene) -> Degraded:
    pool, primary, standby = s.pool, s.primary, s.standby
    if primary is None:
        return pool.degraded or Degraded.START_FAILED
    words = dict(primary.observed.boot)
    if words.get("lock") in ("lock_held", "wrong_volume"):
        return Degraded.LOCK_HELD if words["lock"] == "lock_held" else Degraded.WRONG_VOLUME
    if pool.mode != "recreate" and (standby is None or standby.state is not LeaseState.PARKED):
        return Degraded.NO_STANDBY
    if pool.misses >= MISSES:
        return Degraded.NO_FREE_GPU
    if not s.waited(pool.step_began_at, s.limits.unchecked_seconds) and pool.looked_at is None:
        return Degraded.NONE if pool.degraded is Degraded.NONE else Degraded.UNCHECKED
    if pool.looked_at is None or s.waited(pool.looked_at, s.limits.unchecked_seconds):
        return Degraded.UNCHECKED
    ends = [each.observed.contract_ends_at for each in (primary, standby, s.volume) if each is not None]
    if any(at is not None and (at - s.now).total_seconds() < CONTRACT_SECONDS for at in ends):
        return Degraded.CONTRACT_ENDS
    if s.credit_hours is not None and s.credit_hours < CREDIT_HOURS:
        return Degraded.LOW_CREDIT
    return Degraded.NONE


MISSES = 2
CONTRACT_SECONDS = 72 * 3600.0
CREDIT_HOURS = 24.0
