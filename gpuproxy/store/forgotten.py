"""What remains of deleted reservations: their request_ids, and the labels of their leases.

A request_id never becomes free again, and a machine that reappears at the marketplace is recognised by its label.
"""

from dataclasses import dataclass
from datetime import datetime

from gpuproxy.model.leases import Creation, InstanceId, Lease, LeaseId, LeaseState, Observed, Offered, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import HostKey, OfferId, ProviderName
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenReservation:
    """A reservation whose records were deleted."""

    id: ReservationId
    project: str
    request_id: str
    """"" if its call named none, or freed it."""
    fingerprint: str
    created_at: datetime
    ended_at: datetime


def add(tx: Tx, reservation_id: ReservationId, ended_at: datetime) -> None:
    """Remember a reservation and its leases, which are about to be deleted."""
    tx.execute(
        "INSERT INTO forgotten_reservations (id, project, request_id, fingerprint, created_at, ended_at) "
        "SELECT id, project, request_id, fingerprint, created_at, ? FROM reservations WHERE id = ? "
        "ON CONFLICT (id) DO UPDATE SET ended_at = excluded.ended_at",
        (micros(ended_at), reservation_id),
    )
    tx.execute(
        "INSERT INTO forgotten_leases "
        "(label, id, reservation_id, project, provider, account, instance_id, created_at, ended_at) "
        "SELECT label, id, reservation_id, project, provider, account, instance_id, created_at, ended_at FROM leases "
        "WHERE reservation_id = ? ON CONFLICT (label) DO UPDATE SET "
        "instance_id = excluded.instance_id, ended_at = excluded.ended_at",
        (reservation_id,),
    )


def by_request(tx: Tx, project: str, request_id: str) -> ForgottenReservation | None:
    """The deleted reservation with this request_id; None if there is none."""
    return _found(tx, "project = ? AND request_id = ? AND request_id <> ''", (project, request_id))


def take_back(tx: Tx, reservation_id: ReservationId) -> ForgottenReservation | None:
    """The deleted reservation with this id, which gets a row again: it is no longer remembered here."""
    found = _found(tx, "id = ?", (reservation_id,))
    tx.execute("DELETE FROM forgotten_reservations WHERE id = ?", (reservation_id,))
    return found


def by_label(tx: Tx, label: str) -> Lease | None:
    """The deleted lease of a label, with what is still known of it; None if there is none."""
    row = tx.fetch_one("SELECT * FROM forgotten_leases WHERE label = ?", (label,))
    if row is None:
        return None
    return Lease(
        id=LeaseId(row["id"]), reservation_id=ReservationId(row["reservation_id"]), project=row["project"], attempt=0,
        provider=ProviderName(row["provider"]), account=row["account"], label=label,
        state=LeaseState.RELEASED, version=0,
        created_at=moment(row["created_at"]), ended_at=moment(row["ended_at"]),
        instance_id=None if row["instance_id"] is None else InstanceId(row["instance_id"]),
        offered=Offered(
            offer_id=OfferId(""), host=HostKey(""), conflict_keys=(), gpu_model="", num_gpus=0, vram_gb=0, location="",
        ),
        creation=Creation(ceiling=Micro(0)), observed=Observed(price=Micro(0), disk_price=Micro(0)),
    )  # fmt: skip


def any_lease(tx: Tx) -> bool:
    """True if a lease was deleted."""
    return tx.fetch_one("SELECT 1 AS one FROM forgotten_leases LIMIT 1") is not None


def _found(tx: Tx, where: str, values: tuple[str, ...]) -> ForgottenReservation | None:
    row = tx.fetch_one(f"SELECT * FROM forgotten_reservations WHERE {where}", values)  # noqa: S608 - our own words
    if row is None:
        return None
    return ForgottenReservation(
        id=ReservationId(row["id"]),
        project=row["project"],
        request_id=row["request_id"],
        fingerprint=row["fingerprint"],
        created_at=moment(row["created_at"]),
        ended_at=moment(row["ended_at"]),
    )
