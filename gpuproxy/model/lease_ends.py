"""When a lease ends, and how: with or without a time for which its machine is kept stopped.

An end that the caller set destroys the machine. One that comes from GPUPROXY_LEASE_DURATION stops it first, and
destroys it `grace_s` seconds later. Warm pools have rules of their own, and a booking ends its machine.
"""

from datetime import datetime, timedelta

from gpuproxy.model.labels import Verb
from gpuproxy.model.leases import RENTED, Lease, LeaseState

_SHARE = 10
"""The notice before an end is at most this part of the lease."""


def destroyed_at(lease: Lease) -> datetime | None:
    """When the machine is destroyed; None if the lease has no end."""
    return None if lease.expires_at is None else lease.expires_at + timedelta(seconds=lease.grace_s)


def is_over(lease: Lease, now: datetime) -> bool:
    """True once the machine must be destroyed."""
    end = destroyed_at(lease)
    return end is not None and now >= end


def is_to_stop(lease: Lease, now: datetime) -> bool:
    """True between the end of the lease and the destroy of its machine, which is stopped then."""
    return lease.expires_at is not None and lease.expires_at <= now and not is_over(lease, now)


def notice_at(lease: Lease, notice: float) -> datetime | None:
    """When the owner is told that the lease ends soon: `notice` seconds before, or 10 % of the lease if that is less.

    None if there is no end or no notice.
    """
    if lease.expires_at is None or notice <= 0:
        return None
    return lease.expires_at - min(timedelta(seconds=notice), (lease.expires_at - lease.created_at) / _SHARE)


def is_soon(lease: Lease) -> bool:
    """True for a rented machine from the notice on."""
    return lease.state in RENTED and lease.observed.ending_soon_at is not None


def next_step_at(lease: Lease, notice: float) -> datetime | None:
    """When the end of the lease of a rented machine needs its next step."""
    if lease.expires_at is None:
        return None
    stop_at, steps = lease.pending.stop_at, [lease.expires_at + timedelta(seconds=lease.grace_s)]
    if lease.observed.ending_soon_at is None and (soon := notice_at(lease, notice)) is not None:
        steps.append(soon)
    if lease.grace_s and stop_at is None:
        steps.append(lease.expires_at)
    elif lease.grace_s and stop_at is not None and stop_at >= lease.expires_at and lease.state is not LeaseState.PARKED:
        steps.append(stop_at)
    return min(steps)


def verb(lease: Lease) -> Verb:
    """What a machine that ends itself does at its end."""
    return "s" if lease.grace_s else "d"
