"""The current cost of a lease per hour, by the billing rules of the marketplaces.

Disk is billed as long as the instance exists, GPUs only while the provider reports it running, and nothing while the
host is offline. During a release the meter continues until the provider confirms that the instance is gone. A machine
that is paid in advance has no meter: its cost is its bookings.
"""

from gpuproxy.model.leases import TERMINAL, Lease, LeaseState
from gpuproxy.model.money import Micro


def meter_rate(lease: Lease) -> Micro | None:
    """The rate in micro-dollars per hour; None if no meter runs."""
    if lease.instance_id is None or lease.state in TERMINAL or lease.is_prepaid:
        return None
    return {"nothing": Micro(0), "disk": lease.observed.disk_price, "all": lease.observed.price}[lease.observed.billed]


def present_price(lease: Lease) -> Micro:
    """Micro-dollars per hour: what is billed now for a stopped or dead machine, otherwise its full price."""
    stands = lease.state is LeaseState.PARKED or lease.observed.faltered_at is not None
    rate = meter_rate(lease) if stands else None
    return lease.observed.price if rate is None else rate
