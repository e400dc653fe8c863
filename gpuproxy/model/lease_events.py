"""What can happen to a lease: one class for each event, with what is learnt from it.

`apply` makes the lease after an event. The state table in `leases` decides whether the event is allowed.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar

from gpuproxy.model.bookings import HOUR, price_of
from gpuproxy.model.leases import TERMINAL, Billed, InstanceId, Lease, LeaseEvent, Pending, Prepaid, SshAddress, after
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason


def apply(lease: Lease, event: "Event", now: datetime) -> Lease:
    """The lease after the event; raises IllegalTransition if its state does not allow the event."""
    state = after(lease.state, event.kind)
    ended_at = lease.ended_at
    if state in TERMINAL:
        ended_at = now
    elif lease.state in TERMINAL:
        ended_at = None
    return replace(event.change(lease), state=state, ended_at=ended_at)


@dataclass(frozen=True, slots=True)
class NotAttempted:
    """The create was not sent and will not be. `reason` does not replace an earlier one."""

    reason: Reason = Reason.NONE
    kind: ClassVar = LeaseEvent.NOT_ATTEMPTED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        return replace(lease, reason=lease.reason or self.reason)


@dataclass(frozen=True, slots=True)
class Deferred:
    """The marketplace refused the create unprocessed because of its rate limit; it is sent again."""

    message: str
    kind: ClassVar = LeaseEvent.DEFERRED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        creation = replace(lease.creation, call_started_at=None, call_deadline=None)
        return replace(lease, creation=creation, observed=replace(lease.observed, status_message=self.message))


@dataclass(frozen=True, slots=True)
class Refused:
    """The marketplace did not create the machine. `reason` does not replace an earlier one."""

    reason: Reason
    message: str
    kind: ClassVar = LeaseEvent.REFUSED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        observed = replace(lease.observed, status_message=self.message)
        return replace(lease, reason=lease.reason or self.reason, observed=observed)


@dataclass(frozen=True, slots=True)
class RefusedLate(Refused):
    """A refusal that arrived after the outcome of the create was recorded as unknown."""

    kind: ClassVar = LeaseEvent.ABSENT


@dataclass(frozen=True, slots=True)
class ReplyLost:
    """Nobody knows whether the create was executed. `ended_at`: when the call ended; None for its deadline."""

    message: str
    ended_at: datetime | None = None
    kind: ClassVar = LeaseEvent.REPLY_LOST

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        creation = replace(lease.creation, call_deadline=self.ended_at or lease.creation.call_deadline)
        return replace(lease, creation=creation, observed=replace(lease.observed, status_message=self.message))


@dataclass(frozen=True, slots=True)
class Created:
    """The marketplace answered that it has created the machine.

    `paid` and `booked_until`: what was booked, if the marketplace is paid in advance and says it.
    """

    instance_id: InstanceId
    at: datetime
    paid: Micro | None = None
    booked_until: datetime | None = None
    kind: ClassVar = LeaseEvent.CREATED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        # The time of the call is empty if the create seemed to be rate limited but was executed.
        creation = replace(lease.creation, call_started_at=lease.creation.call_started_at or self.at)
        return replace(
            lease,
            instance_id=self.instance_id,
            started_at=self.at,
            creation=creation,
            pending=replace(lease.pending, destroy_at=self.at),
            prepaid=_booked(lease, self.at, self.paid, self.booked_until),
        )


@dataclass(frozen=True, slots=True)
class Found(Created):
    """A listing shows the machine of a create whose answer is missing. `billed` is None if it isn't known."""

    billed: Billed | None = None
    kind: ClassVar = LeaseEvent.FOUND

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        new = Created(self.instance_id, self.at, self.paid, self.booked_until).change(lease)
        observed = replace(new.observed, seen_at=self.at, billed=self.billed or new.observed.billed)
        return replace(new, observed=observed, pending=replace(new.pending, absent_checks=0))


@dataclass(frozen=True, slots=True)
class Reappeared:
    """A machine exists although its lease has ended: it must be destroyed, and proven gone anew.

    `instance_id` is None if the lease has it. `listed`: a listing shows the machine.
    """

    at: datetime
    instance_id: InstanceId | None = None
    listed: bool = False
    kind: ClassVar = LeaseEvent.REAPPEARED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        return replace(
            lease,
            instance_id=self.instance_id or lease.instance_id,
            started_at=lease.started_at or self.at,
            creation=replace(lease.creation, call_started_at=lease.creation.call_started_at or self.at),
            observed=replace(lease.observed, seen_at=self.at if self.listed else lease.observed.seen_at),
            pending=Pending(keys_state=lease.pending.keys_state, destroy_at=self.at),
            prepaid=lease.prepaid if lease.instance_id is not None else _booked(lease, self.at, None, None),
        )


@dataclass(frozen=True, slots=True)
class Absent:
    """It is proven that the create was not executed. The last proof is a listing that began at `checked_at`.

    With BOOKING_NOT_FOUND nothing is proven: what the create may have booked is over. `message` says it.
    """

    checked_at: datetime
    reason: Reason
    message: str = ""
    kind: ClassVar = LeaseEvent.ABSENT

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        checks = lease.pending.absent_checks + 1
        pending = replace(lease.pending, absent_checks=checks, absent_checked_at=self.checked_at)
        observed = replace(lease.observed, status_message=self.message) if self.message else lease.observed
        return replace(lease, reason=lease.reason or self.reason, observed=observed, pending=pending)


@dataclass(frozen=True, slots=True)
class Ready:
    """A caller can get into the machine. `ssh` is the address that answered; None if it was a port or nothing."""

    at: datetime
    evidence: str
    ssh: SshAddress | None = None
    kind: ClassVar = LeaseEvent.READY

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        seen = lease.observed
        known = SshAddress(seen.ssh_host, seen.ssh_port, seen.ssh_user)
        ssh = self.ssh or known
        observed = replace(
            lease.observed,
            ready_at=lease.observed.ready_at or self.at,
            ready_evidence=self.evidence,
            faltered_at=None,
            ssh_host=ssh.host,
            ssh_port=ssh.port,
            ssh_user=ssh.user,
        )
        return replace(lease, observed=observed)


@dataclass(frozen=True, slots=True)
class Faltered:
    """The machine was ready, and the marketplace says that it no longer runs."""

    at: datetime
    kind: ClassVar = LeaseEvent.FALTERED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        observed = replace(lease.observed, faltered_at=self.at, idle_since=None, idle_notice_at=None)
        return replace(lease, observed=observed)


@dataclass(frozen=True, slots=True)
class Parked:
    """The machine is stopped at the provider."""

    kind: ClassVar = LeaseEvent.PARKED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        observed = replace(lease.observed, faltered_at=None, idle_since=None, idle_notice_at=None)
        return replace(lease, observed=observed)


@dataclass(frozen=True, slots=True)
class Woken:
    """A stopped machine starts."""

    kind: ClassVar = LeaseEvent.WOKEN

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        return lease


@dataclass(frozen=True, slots=True)
class Release:
    """Nobody wants the machine any more. `message` replaces the provider's status text unless it is empty."""

    reason: Reason
    at: datetime
    message: str = ""
    kind: ClassVar = LeaseEvent.RELEASE

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        observed = replace(lease.observed, status_message=self.message) if self.message else lease.observed
        pending = replace(lease.pending, destroy_at=self.at)
        return replace(lease, reason=self.reason, observed=observed, pending=pending)


@dataclass(frozen=True, slots=True)
class Vanished:
    """The provider took the machine away."""

    kind: ClassVar = LeaseEvent.VANISHED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        return lease


@dataclass(frozen=True, slots=True)
class Ended:
    """The booking is over, and the machine with it."""

    kind: ClassVar = LeaseEvent.ENDED

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        return replace(lease, reason=lease.reason or Reason.BOOKING_ENDED)


@dataclass(frozen=True, slots=True)
class Gone:
    """A destroyed machine is proven gone, by a listing that began at `checked_at`; None: by a read of the machine."""

    checked_at: datetime | None = None
    used: timedelta | None = None
    """How long it ran, as the marketplace charges it; None: nobody knows. It may have run on after a destroy."""
    kind: ClassVar = LeaseEvent.GONE

    def change(self, lease: Lease) -> Lease:
        """The lease with the facts of the event."""
        if self.used is not None and lease.prepaid.booked_until is not None:
            booked = timedelta(hours=lease.prepaid.booked_hours)
            ended_at = lease.prepaid.booked_until - booked + min(self.used, booked)
            ended_at = max(ended_at, lease.pending.destroy_accepted_at or ended_at)
            lease = replace(lease, pending=replace(lease.pending, destroy_taken_at=ended_at))
        if self.checked_at is None:
            return lease
        checks = lease.pending.absent_checks + 1
        return replace(lease, pending=replace(lease.pending, absent_checks=checks, absent_checked_at=self.checked_at))


Event = (
    NotAttempted | Deferred | Refused | ReplyLost | Created | Reappeared | Absent | Ready | Faltered | Parked | Woken
    | Release | Vanished | Ended | Gone
)  # fmt: skip


def _booked(lease: Lease, at: datetime, paid: Micro | None, booked_until: datetime | None) -> Prepaid:
    """What the create has booked. What the marketplace does not say is estimated, until a read of the machine says it.

    A booking begins with the call at the earliest. An estimate that is too early only extends the machine too early.
    """
    if not lease.is_prepaid:
        return lease.prepaid
    began = lease.creation.call_started_at or at
    return replace(
        lease.prepaid,
        booked_until=booked_until or began + lease.prepaid.booked_hours * HOUR,
        paid=price_of(lease, lease.prepaid.booked_hours) if paid is None else paid,
    )
