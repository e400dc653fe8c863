"""How soon a lease needs the next pass over its account, or the next step that the database alone decides. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from gpuproxy.model import lease_ends
from gpuproxy.model.leases import RENTED, Lease, LeaseState

_QUICK_DESTROYS = 4
_QUICKLY = timedelta(minutes=5)
"""After this time without a change, a machine no longer makes passes frequent."""


def about_to_change(lease: Lease, fresh: datetime, now: datetime) -> bool:
    """True while passes over the account should be frequent. A create is `fresh` if it was made after that time."""
    if lease.outcome_unknown:
        return lease.created_at > fresh
    if lease.state is LeaseState.RELEASING:
        return lease.pending.destroy_tries <= _QUICK_DESTROYS
    if lease.state is LeaseState.STARTING:
        return lease.observed.faltered_at is None or lease.observed.faltered_at > now - _QUICKLY
    return lease.state is LeaseState.REQUESTED


def due_at(lease: Lease, notice: float) -> datetime | None:
    """When the lease needs a step that depends on the database alone. `notice`: seconds, see `lease_ends.notice_at`."""
    if lease.state is LeaseState.RELEASING:
        return lease.pending.destroy_at
    if lease.state in RENTED:
        return lease_ends.next_step_at(lease, notice)
    return lease.expires_at if lease.state is LeaseState.UNKNOWN else None


def all_due_at(rows: Sequence[Lease], notice: float) -> list[datetime]:
    """When the leases need such steps."""
    return [at for lease in rows if (at := due_at(lease, notice)) is not None]


def stuck(lease: Lease) -> bool:
    """True for a lease that was destroyed several times and is not proven gone."""
    return lease.state is LeaseState.RELEASING and lease.pending.destroy_tries > 1
