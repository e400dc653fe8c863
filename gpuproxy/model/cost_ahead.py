"""What a machine will still cost until the end of its lease, at its present price. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from gpuproxy.model.bookings import HOUR, NOT_WORTH_AN_HOUR, price_of
from gpuproxy.model.leases import RENTED, Lease, LeaseState
from gpuproxy.model.money import Micro, accrued


def cost_to_end(lease: Lease, now: datetime) -> Micro | None:
    """Micro-dollars from `now` to the end of the lease; None for one without an end, and for one that is over.

    A machine that starts counts as running, and one that is stopped as staying stopped. A machine that is paid in
    advance costs the whole hours that its booking lacks.
    """
    if lease.expires_at is None or lease.state not in RENTED:
        return None
    if lease.is_prepaid:
        lacks = lease.expires_at - (lease.prepaid.booked_until or now)
        return Micro(0) if lacks <= NOT_WORTH_AN_HOUR else price_of(lease, -(-lacks // HOUR))
    seen = lease.observed
    rate = seen.disk_price if lease.state is LeaseState.PARKED else seen.price
    return accrued(rate, max(timedelta(0), lease.expires_at - now))


def costs_to_end(leases: Iterable[Lease], now: datetime) -> Micro | None:
    """The sum over leases; None if none of them has an end, or if one that is rented has none."""
    rented = [lease for lease in leases if lease.state in RENTED]
    known = [cost for lease in rented if (cost := cost_to_end(lease, now)) is not None]
    return Micro(sum(known)) if known and len(known) == len(rented) else None
