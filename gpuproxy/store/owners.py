"""The owners of leases, wherever each kind is stored."""

from collections.abc import Mapping, Sequence

from gpuproxy.model.leases import Lease, ReservationId
from gpuproxy.model.owners import Owner, OwnerId
from gpuproxy.ports import Tx
from gpuproxy.store import leases, reservations


def of(tx: Tx, lease: Lease) -> Owner:
    """The owner of a lease."""
    return reservations.get(tx, lease.reservation_id).as_owner


def leases_of(tx: Tx, owner_id: OwnerId) -> tuple[Lease, ...]:
    """All leases of an owner, in the order of their attempts."""
    return leases.of_reservation(tx, ReservationId(owner_id))


def topic(owner_id: OwnerId) -> str:
    """What is announced when the owner or one of its leases has changed."""
    return f"reservation:{owner_id}"


def of_all(tx: Tx, rows: Sequence[Lease]) -> Mapping[OwnerId, Owner]:
    """The owners of these leases."""
    return {lease.owner_id: of(tx, lease) for lease in {lease.owner_id: lease for lease in rows}.values()}
