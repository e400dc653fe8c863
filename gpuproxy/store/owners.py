"""The owners of leases, wherever each kind is stored."""

from collections.abc import Mapping, Sequence

from gpuproxy.model.leases import Lease
from gpuproxy.model.owners import Owner, OwnerId
from gpuproxy.ports import Tx
from gpuproxy.store import reservations


def of(tx: Tx, lease: Lease) -> Owner:
    """The owner of a lease."""
    return reservations.get(tx, lease.reservation_id).as_owner


def of_all(tx: Tx, leases: Sequence[Lease]) -> Mapping[OwnerId, Owner]:
    """The owners of these leases."""
    return {lease.owner_id: of(tx, lease) for lease in {lease.owner_id: lease for lease in leases}.values()}
