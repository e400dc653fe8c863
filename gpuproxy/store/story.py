"""What the log says of a lease: one line for each event that begins, changes or ends what is paid for.

Pure: from the lease before and after an event to the line. `leases` hands it to the transaction, which logs it after
its commit, so that no line tells of work that was rolled back. docs/logs.md explains every line to operators.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gpuproxy.model.leases import Lease, LeaseEvent
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.owners import EXPIRED
from gpuproxy.model.reservations import Reservation

log = structlog.get_logger(__name__)

Fields = dict[str, str | int | float]
_ENDS = {LeaseEvent.GONE: "instance_released", LeaseEvent.VANISHED: "instance_lost"}
_CHANGES = {
    LeaseEvent.READY: "instance_ready",
    LeaseEvent.FALTERED: "instance_died",
    LeaseEvent.PARKED: "instance_stopped",
    LeaseEvent.WOKEN: "instance_woken",
    LeaseEvent.REAPPEARED: "instance_reappeared",
}
EVENTS = frozenset({
    "instance_rented", *_ENDS.values(), *_CHANGES.values(),
    "create_refused", "create_unknown", "create_disproved", "lease_expired", "release_started", "release_requested",
})  # fmt: skip
"""Every name that a line of this module may have."""


@dataclass(frozen=True, slots=True)
class Line:
    """An event of the log, at info."""

    event: str
    fields: Fields

    def __call__(self) -> None:
        """Log it."""
        log.info(self.event, **self.fields)


def of_event(
    old: Lease, new: Lease, event: LeaseEvent, reservation: Reservation, cost: Callable[[], Micro]
) -> Line | None:
    """The line of an event of a lease; None where no money depends on it. `cost`: what the lease has cost in all."""
    name = _name(old, new, event)
    if not name:
        return None
    fields = _common(new, reservation)
    if name == "instance_rented":
        fields["how"] = event.value
    elif name == "instance_died":
        fields |= {
            "billed": new.billed,
            "billed_per_hour": usd(meter_rate(new) or 0),
            "status_message": new.status_message,
        }
    elif name.startswith("create_"):
        fields |= {"offer": new.offer_id, "error": new.status_message}
    elif event in _ENDS:
        fields["cost"] = usd(cost())
    return Line(name, fields)


def of_request(reservation: Reservation, lease: Lease | None, *, key: str, user: str) -> Line:
    """Somebody asked for the release of a reservation or, with `lease`, of one of its machines."""
    fields: Fields = {
        "reservation": reservation.id,
        "contract": "" if lease is None else lease.instance_id or "",
        "project": reservation.project,
        "key": key,
        "user": user,
    }
    return Line("release_requested", fields)


def _name(old: Lease, new: Lease, event: LeaseEvent) -> str:
    """The line's event; "" for none."""
    if old.instance_id is None and new.instance_id is not None:
        return "instance_rented"
    if event is LeaseEvent.REFUSED or (event is LeaseEvent.ABSENT and new.absent_checks == old.absent_checks):
        return "create_refused"  # the marketplace may say so only after the outcome counted as unknown
    if event is LeaseEvent.ABSENT:
        return "create_disproved"
    if event is LeaseEvent.REPLY_LOST:
        return "create_unknown"
    if new.reason == EXPIRED != old.reason:
        return "lease_expired"
    if event is LeaseEvent.RELEASE:
        return "release_started" if new.call_started_at is not None else ""  # else nothing was sent: nothing to release
    return _ENDS.get(event) or _CHANGES.get(event, "")


def _common(lease: Lease, reservation: Reservation) -> Fields:
    return {
        "reservation": reservation.id,
        "contract": lease.instance_id or "",
        "price": usd(lease.price),
        "project": lease.project,
        "key": reservation.key_id,
        "provider": lease.provider,
        "account": lease.account,
        "lease": lease.id,
        "num_gpus": lease.num_gpus,
        "reason": lease.reason,
    }
