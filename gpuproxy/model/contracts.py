"""The marketplace's contract of a machine, which may end before the lease does. The machine stops at its end.

Hosts offer a machine until a date, and may extend it later. So the end of a contract can move in both directions.
"""

from datetime import datetime, timedelta

from gpuproxy.model.leases import RENTED, Lease

WARNING = timedelta(hours=72)
"""A lease without an end is warned about when its machine's contract ends within this time."""


def ends_too_soon(contract_ends_at: datetime | None, expires_at: datetime | None, now: datetime) -> bool:
    """True if the contract ends before the lease or, for a lease without an end, within `WARNING`."""
    if contract_ends_at is None:
        return False
    return contract_ends_at < (now + WARNING if expires_at is None else expires_at)


def warning(lease: Lease) -> str:
    """What the owner of a machine should know about its contract; "" if there is nothing."""
    ends_at = lease.observed.contract_ends_at
    if lease.state not in RENTED or lease.observed.contract_warned_at is None or ends_at is None:
        return ""
    end = f"{ends_at:%Y-%m-%d %H:%MZ}"
    lasts = "the lease has no end" if lease.expires_at is None else f"the lease: {lease.expires_at:%Y-%m-%d %H:%MZ}"
    return (
        f"End of the contract of {lease.provider} {lease.instance_id}: {end}; {lasts}. The machine can't run after the "
        "contract, and its data may be deleted then. Copy the data and rent another machine in time."
    )
