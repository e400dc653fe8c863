"""What a lease costs per hour at this moment, following how marketplaces bill.

Disk is billed for as long as the instance exists, the GPUs from when the provider first says running. While a release
is under way the meter runs on: only the provider's word that the instance is gone stops it.
"""

from gpuproxy.model.leases import TERMINAL, Lease, LeaseState
from gpuproxy.model.money import Micro


def meter_rate(lease: Lease) -> Micro | None:
    """Micro-dollars per hour; None while nothing is billed."""
    if lease.instance_id is None or lease.state in TERMINAL:
        return None
    if lease.running_at is None or lease.state is LeaseState.PARKED:
        return lease.disk_price
    return lease.price
