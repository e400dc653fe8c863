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


def leases_ahead(tx: Tx, owner_id: OwnerId) -> None:
    """Say that `leases_of` will be called."""
    leases.all_ahead(tx, ReservationId(owner_id))


def topic(owner_id: OwnerId) -> str:
    """What is announced when the owner or one of its leases has changed."""
    return f"reservation:{owner_id}"


def of_all(tx: Tx, rows: Sequence[Lease]) -> Mapping[OwnerId, Owner]:
    """The owners of these leases."""
    each_owner = {lease.owner_id: lease for lease in rows}
    for lease in each_owner.values():
        reservations.ahead(tx, lease.reservation_id)
    return {owner_id: of(tx, lease) for owner_id, lease in each_owner.items()}
