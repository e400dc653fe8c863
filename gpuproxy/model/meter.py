"""What a lease costs per hour at this moment, following how marketplaces bill.

Disk is billed for as long as the instance exists, the GPUs only while the provider says running, and nothing while
the host is away. While a release is under way the meter runs on: only the provider's word that it is gone ends it.
"""

from gpuproxy.model.leases import TERMINAL, Lease
from gpuproxy.model.money import Micro


def meter_rate(lease: Lease) -> Micro | None:
    """Micro-dollars per hour; None while nothing is billed."""
    if lease.instance_id is None or lease.state in TERMINAL:
        return None
    return {"nothing": Micro(0), "disk": lease.disk_price, "all": lease.price}[lease.billed]
