"""The label that the machine of a lease should have, and what a label that a marketplace shows means."""

from datetime import datetime

from gpuproxy.model import lease_ends, self_ending
from gpuproxy.model.labels import Signer
from gpuproxy.model.leases import Lease


def label_of(lease: Lease, signer: Signer) -> str:
    """The label of the machine: with the lease's end if the machine ends itself."""
    if lease.expires_at is None or not self_ending.carries_end(lease):
        return lease.label
    return signer.with_end(lease.label, lease.expires_at, lease_ends.verb(lease))


def label_until(lease: Lease, end: datetime, signer: Signer) -> str:
    """The label with which the machine destroys itself after `end`, an end that its owner sets."""
    return signer.with_end(lease.label, end, "d")
