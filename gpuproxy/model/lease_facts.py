"""What can be learnt about a lease without an event: one class for each kind of fact.

`change` makes the lease with the fact. It never changes the lease's state.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from gpuproxy.model.bookings import HOUR, new_price
from gpuproxy.model.leases import BOOT_REQUESTED, Billed, KeysState, Lease, Observed, PortMapping, SshAddress
from gpuproxy.model.money import Micro


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The create is about to be sent. `deadline`: when the call ends at the latest."""

    at: datetime
    deadline: datetime

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        creation = replace(lease.creation, call_started_at=self.at, call_deadline=self.deadline)
        return replace(lease, creation=creation, observed=replace(lease.observed, status_message=""))


@dataclass(frozen=True, slots=True)
class Extended:
    """The owner wants the machine until `expires_at`, which destroys it. `too_soon`: its contract ends before."""

    expires_at: datetime
    at: datetime
    too_soon: bool

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        observed = replace(_warned(lease, self.at, too_soon=self.too_soon), ending_soon_at=None)
        pending = replace(lease.pending, new_end=None, new_end_until=None)
        return replace(lease, expires_at=self.expires_at, grace_s=0, observed=observed, pending=pending)


@dataclass(frozen=True, slots=True)
class NewEnd:
    """The end `at` is being written to the machine's label, for at most `until`. None: nothing is."""

    at: datetime | None
    until: datetime | None

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, pending=replace(lease.pending, new_end=self.at, new_end_until=self.until))


@dataclass(frozen=True, slots=True)
class EndingSoon:
    """The owner is told that the lease ends soon."""

    at: datetime

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, observed=replace(lease.observed, ending_soon_at=self.at))


@dataclass(frozen=True, slots=True)
class Idle:
    """The machine has been idle since `since`. None: it is not, so that a notice no longer stands."""

    since: datetime | None

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, observed=replace(lease.observed, idle_since=self.since, idle_notice_at=None))


@dataclass(frozen=True, slots=True)
class IdleNotice:
    """The owner is told that the machine will be released because it is idle."""

    at: datetime

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, observed=replace(lease.observed, idle_notice_at=self.at))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a listing shows of the machine. A value of None is one that the listing doesn't give."""

    at: datetime
    price: Micro | None
    disk_price: Micro | None
    billed: Billed | None
    status_message: str | None
    ssh: SshAddress
    """The address that clients are shown."""
    ports: tuple[PortMapping, ...]
    contract_ends_at: datetime | None
    too_soon: bool
    """The marketplace's contract ends before the lease does."""

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact. What spoke for the machine's absence no longer counts."""
        old = _warned(lease, self.at, too_soon=self.too_soon)
        observed = replace(
            old,
            seen_at=old.seen_at or self.at,
            priced_at=old.priced_at or (None if self.price is None else self.at),
            price=old.price if self.price is None else self.price,
            disk_price=old.disk_price if self.disk_price is None else self.disk_price,
            billed=self.billed or old.billed,
            status_message=old.status_message if self.status_message is None else self.status_message,
            ssh_host=self.ssh.host,
            ssh_port=self.ssh.port,
            ssh_user=self.ssh.user,
            ports=self.ports or old.ports,
            contract_ends_at=self.contract_ends_at or old.contract_ends_at,
        )
        pending = replace(lease.pending, missing_since=None, gone_said_at=None, absent_checks=0)
        return replace(lease, observed=observed, pending=pending)


@dataclass(frozen=True, slots=True)
class Missing:
    """A believable listing does not show the machine since `since`; None: a read shows it."""

    since: datetime | None

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, pending=replace(lease.pending, missing_since=self.since))


@dataclass(frozen=True, slots=True)
class NotListed:
    """One more believable listing, which began at `checked_at`, does not show the machine."""

    checked_at: datetime

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        checks = lease.pending.absent_checks + 1
        return replace(lease, pending=replace(lease.pending, absent_checks=checks, absent_checked_at=self.checked_at))


@dataclass(frozen=True, slots=True)
class Suspected:
    """Another instance may be the one that a create made; `message` says which. The proof of absence begins again."""

    message: str

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        observed = replace(lease.observed, status_message=self.message)
        return replace(lease, observed=observed, pending=replace(lease.pending, absent_checks=0))


@dataclass(frozen=True, slots=True)
class StopDue:
    """The machine must be stopped from `at` on; None: it may run."""

    at: datetime | None

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, pending=replace(lease.pending, stop_at=self.at))


@dataclass(frozen=True, slots=True)
class NewCeiling:
    """The owner of the machine accepts another highest price, per hour."""

    ceiling: Micro

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, creation=replace(lease.creation, ceiling=self.ceiling))


@dataclass(frozen=True, slots=True)
class KeepGpus:
    """Whether this server rents the machine's GPUs to nobody else while it is stopped."""

    keep: bool

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, pending=replace(lease.pending, keeps_gpus=self.keep))


@dataclass(frozen=True, slots=True)
class BootsAgain:
    """The machine is started again, so its boot script will report again."""

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact. Parts that never report stay as they are."""
        boot = tuple(
            (part, word if word.startswith("unsupported ") else BOOT_REQUESTED) for part, word in lease.observed.boot
        )
        return replace(lease, observed=replace(lease.observed, boot=boot))


@dataclass(frozen=True, slots=True)
class BookingRead:
    """A read of the machine shows what is booked and paid. Our bookings say the same from now on."""

    at: datetime
    until: datetime
    paid: Micro
    price: Micro | None = None
    """The price per hour of the last booking, if two reads tell what was paid for it."""

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact. A machine that was booked longer by somebody else has more hours."""
        booked = lease.prepaid
        more = 0 if booked.booked_until is None else round((self.until - booked.booked_until) / HOUR)
        hours = max(1, booked.booked_hours + more)
        new = replace(
            booked, booked_hours=hours, booked_until=self.until, paid=self.paid, booking_read_at=self.at
        )  # fmt: skip
        if more > 0:  # the extension that failed was executed after all, or another one was
            new = replace(new, extend_at=None, extend_tries=0, extend_refusal="")
        observed = replace(lease.observed, price=new_price(lease.observed.price, self.price))
        return replace(lease, observed=observed, prepaid=new)


@dataclass(frozen=True, slots=True)
class BookingDoubted:
    """A listing shows another end of the booking than ours, so the machine must be read again."""

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, prepaid=replace(lease.prepaid, booking_read_at=None))


@dataclass(frozen=True, slots=True)
class BookedLonger:
    """An extension was executed. The machine is read next, because these numbers may follow from the answer alone."""

    hours: int
    until: datetime
    paid: Micro

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        new = replace(
            lease.prepaid,
            booked_hours=lease.prepaid.booked_hours + self.hours,
            booked_until=self.until,
            paid=self.paid,
            booking_read_at=None,
            extend_at=None,
            extend_tries=0,
            extend_refusal="",
        )
        return replace(lease, prepaid=new)


@dataclass(frozen=True, slots=True)
class NotBookedLonger:
    """An extension was not executed, or its outcome is unknown. No other one is sent before `again_at`."""

    why: str
    again_at: datetime | None
    doubtful: bool = False
    """The marketplace refused it, but may have executed it: the machine must be read."""

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        tries = lease.prepaid.extend_tries + 1
        new = replace(lease.prepaid, extend_at=self.again_at, extend_tries=tries, extend_refusal=self.why)
        if self.doubtful:
            new = replace(new, booking_read_at=None)
        return replace(lease, prepaid=new)


DestroyAnswer = Literal["accepted", "none there", "error"]


@dataclass(frozen=True, slots=True)
class DestroySent:
    """A destroy was sent and answered. After "none there" (no such instance) the provider bills nothing any more."""

    at: datetime
    answer: DestroyAnswer
    tries: int
    again_at: datetime

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact. The proof that the machine is gone begins anew with each kind of answer."""
        observed, pending = lease.observed, lease.pending
        pending = replace(pending, destroy_tries=self.tries, destroy_at=self.again_at)
        if self.answer != "error" and pending.destroy_taken_at is None:
            pending = replace(pending, destroy_taken_at=self.at, absent_checks=0, absent_checked_at=None)
        if self.answer == "none there" and pending.gone_said_at is None:
            observed = replace(observed, billed="nothing")
            pending = replace(pending, gone_said_at=self.at, absent_checks=0, absent_checked_at=None)
        return replace(lease, observed=observed, pending=pending)


@dataclass(frozen=True, slots=True)
class Booted:
    """The parts of the boot script and what became of each, sorted by part."""

    parts: tuple[tuple[str, str], ...]

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, observed=replace(lease.observed, boot=self.parts))


@dataclass(frozen=True, slots=True)
class KeysGiven:
    """Whether the marketplace has the machine's SSH keys."""

    state: KeysState

    def change(self, lease: Lease) -> Lease:
        """The lease with the fact."""
        return replace(lease, pending=replace(lease.pending, keys_state=self.state))


def _warned(lease: Lease, at: datetime, *, too_soon: bool) -> Observed:
    return replace(lease.observed, contract_warned_at=(lease.observed.contract_warned_at or at) if too_soon else None)


Fact = (
    CallStarted
    | Extended
    | NewEnd
    | EndingSoon
    | Idle
    | IdleNotice
    | Shown
    | Missing
    | NotListed
    | Suspected
    | StopDue
    | NewCeiling
    | KeepGpus
    | BootsAgain
    | BookingRead
    | BookingDoubted
    | BookedLonger
    | NotBookedLonger
    | DestroySent
    | Booted
    | KeysGiven
)
