"""The log lines about money: one for each event of a lease that starts, changes or ends its costs.

Pure functions make the line from the lease before and after the event. `leases` passes the line to the transaction,
which logs it after the commit, so that no line reports work that was rolled back. docs/logs.md explains every line.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gpuproxy.model.leases import Lease, LeaseEvent
from gpuproxy.model.limits import Over, Usage
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import Reservation

log = structlog.get_logger(__name__)

Fields = dict[str, str | int | float]
_ENDS = {
    LeaseEvent.GONE: "instance_released",
    LeaseEvent.ENDED: "instance_released",
    LeaseEvent.VANISHED: "instance_lost",
}
_CHANGES = {
    LeaseEvent.READY: "instance_ready",
    LeaseEvent.FALTERED: "instance_died",
    LeaseEvent.PARKED: "instance_stopped",
    LeaseEvent.WOKEN: "instance_woken",
    LeaseEvent.REAPPEARED: "instance_reappeared",
}
EVENTS = frozenset({
    "instance_rented", *_ENDS.values(), *_CHANGES.values(),
    "create_refused", "create_unknown", "create_disproved", "create_given_up", "lease_expired", "release_started",
    "release_requested", "booking_extended", "booking_refunded", "extension_refused", "extension_unknown",
    "limit_near", "limit_reached", "quota_reached",
})  # fmt: skip
"""The names of all events that this module can log."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """An event for the log, at level info."""

    event: str
    fields: Fields

    def __call__(self) -> None:
        """Log it."""
        log.info(self.event, **self.fields)


def of_event(
    old: Lease, new: Lease, event: LeaseEvent, reservation: Reservation, cost: Callable[[], Micro]
) -> LogLine | None:
    """The line of an event of a lease; None if the event doesn't concern costs. `cost` computes the lease's total."""
    name = _name(old, new, event)
    if not name:
        return None
    fields = _common(new, reservation)
    if name == "instance_rented":
        fields["how"] = event.value
    elif name == "instance_died":
        fields |= {
            "billed": new.observed.billed,
            "billed_per_hour": usd(meter_rate(new) or 0),
            "status_message": new.observed.status_message,
        }
    elif name.startswith("create_"):
        fields |= {"offer": new.offered.offer_id, "error": new.observed.status_message}
    elif event in _ENDS:
        fields["cost"] = usd(cost())
    return LogLine(name, fields)


def of_request(reservation: Reservation, lease: Lease | None, *, key: str, user: str) -> LogLine:
    """The line of a request to release a reservation or, with `lease`, one of its machines."""
    fields: Fields = {
        "reservation": reservation.id,
        "contract": "" if lease is None else lease.instance_id or "",
        "project": reservation.project,
        "key": key,
        "user": user,
    }
    return LogLine("release_requested", fields)


def booking_extended(lease: Lease, hours: int, amount: int) -> None:
    """Log that a machine is booked longer. Called after the commit, like the next two."""
    until = "" if lease.prepaid.booked_until is None else lease.prepaid.booked_until.isoformat()
    log.info("booking_extended", **_of_booking(lease), hours=hours, amount=usd(amount), booked_until=until)


def booking_refunded(lease: Lease, amount: int) -> None:
    """Log what a destroyed machine gives back."""
    log.info("booking_refunded", **_of_booking(lease), amount=usd(amount))


def extension_failed(lease: Lease, reason: Reason, error: str, *, unknown: bool = False) -> None:
    """Log that an extension was refused or not executed, or that nobody knows yet whether it was executed."""
    name = "extension_unknown" if unknown else "extension_refused"
    log.warning(name, **_of_booking(lease), reason=reason, error=error)


def quota_reached(lease: Lease, why: str) -> None:
    """A machine that started without a call is stopped again, because the quota of its project is used up."""
    log.warning("quota_reached", project=lease.project, lease=lease.id, contract=lease.instance_id, why=why)


def limit_reached(over: Over, why: str) -> None:
    """Log that a spending limit has refused something."""
    log.warning("limit_reached", **_of_limit(over.usage), asked_usd=usd(over.asked), why=why)


def limit_near(usage: Usage) -> None:
    """Log that most of a spending limit is spent or held."""
    log.warning("limit_near", **_of_limit(usage))


def _of_limit(usage: Usage) -> Fields:
    limit = usage.limit
    return {
        "window": limit.window.name, "scope": limit.scope, "subject": limit.subject, "policy": limit.policy,
        "limit_usd": usd(limit.amount), "spent_usd": usd(usage.spent), "held_usd": usd(usage.held),
    }  # fmt: skip


def _of_booking(lease: Lease) -> Fields:
    return {
        "reservation": lease.reservation_id, "contract": lease.instance_id or "", "project": lease.project,
        "provider": lease.provider, "account": lease.account, "lease": lease.id,
    }  # fmt: skip


def _name(old: Lease, new: Lease, event: LeaseEvent) -> str:
    """The name of the line's event; "" for no line."""
    if old.instance_id is None and new.instance_id is not None:
        return "instance_rented"
    late = event is LeaseEvent.ABSENT and new.pending.absent_checks == old.pending.absent_checks
    if event is LeaseEvent.REFUSED or late:
        return "create_refused"  # it may arrive after the outcome was recorded as unknown
    if event is LeaseEvent.ABSENT:
        return "create_given_up" if new.is_prepaid else "create_disproved"
    if event is LeaseEvent.REPLY_LOST:
        return "create_unknown"
    if new.reason == Reason.EXPIRED != old.reason:
        return "lease_expired"
    if event is LeaseEvent.RELEASE:
        return "release_started" if new.creation.call_started_at is not None else ""  # otherwise no create was sent
    return _ENDS.get(event) or _CHANGES.get(event, "")


def _common(lease: Lease, reservation: Reservation) -> Fields:
    return {
        "reservation": reservation.id,
        "contract": lease.instance_id or "",
        "price": usd(lease.observed.price),
        "project": lease.project,
        "key": reservation.key_id,
        "provider": lease.provider,
        "account": lease.account,
        "lease": lease.id,
        "num_gpus": lease.offered.num_gpus,
        "reason": lease.reason,
    }
