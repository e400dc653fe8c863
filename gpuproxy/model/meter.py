"""The present cost of a lease per hour, as marketplaces bill it.

The disk is billed as long as the instance exists, the GPUs only while the provider reports it as running, and nothing
while the host is offline. During a release the meter keeps running until the provider confirms that the instance is
gone.
"""

from gpuproxy.model.leases import TERMINAL, Lease
from gpuproxy.model.money import Micro


def meter_rate(lease: Lease) -> Micro | None:
    """Micro-dollars per hour; None while nothing is billed."""
    if lease.instance_id is None or lease.state in TERMINAL:
        return None
    return {"nothing": Micro(0), "disk": lease.disk_price, "all": lease.price}[lease.billed]
