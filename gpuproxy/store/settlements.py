"""What a marketplace charged for machines that are over, beside what our meters said of them."""

from dataclasses import dataclass
from datetime import datetime

from gpuproxy.model.leases import InstanceId, LeaseId
from gpuproxy.model.money import Micro
from gpuproxy.model.transactions import Adjustment
from gpuproxy.ports import Tx
from gpuproxy.store.pace import Account
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """A machine that is over and has not been compared with its charges."""

    lease_id: LeaseId
    instance_id: InstanceId
    began: datetime
    ended: datetime


def due(tx: Tx, account: Account, since: datetime, until: datetime) -> tuple[Unsettled, ...]:
    """Machines of the account that ended in this time; those that came back after their settlement once more."""
    rows = tx.fetch(
        "SELECT id, instance_id, coalesce(call_started_at, created_at) AS began, ended_at FROM leases l "
        "WHERE provider = ? AND account = ? AND instance_id IS NOT NULL AND ended_at BETWEEN ? AND ? "
        "AND NOT EXISTS (SELECT 1 FROM settlements s WHERE s.lease_id = l.id AND s.at >= l.ended_at)",
        (*account, micros(since), micros(until)),
    )
    return tuple(
        Unsettled(
            lease_id=row["id"],
            instance_id=row["instance_id"],
            began=moment(row["began"]),
            ended=moment(row["ended_at"]),
        )
        for row in rows
    )


def save(tx: Tx, lease_id: LeaseId, *, charged: Micro, metered: Micro) -> None:
    """The marketplace charged this much for it in all."""
    tx.execute(
        "INSERT OR REPLACE INTO settlements (lease_id, at, charged, metered) VALUES (?, ?, ?, ?)",
        (lease_id, micros(tx.now()), charged, metered),
    )


def difference(tx: Tx, lease_id: LeaseId) -> Micro:
    """What the meters of a lease were short of; 0 while it is not settled."""
    row = tx.fetch_one("SELECT charged - metered AS short FROM settlements WHERE lease_id = ?", (lease_id,))
    return Micro(0 if row is None else row["short"])


def of_project(tx: Tx, project: str | None) -> tuple[Adjustment, ...]:
    """The differences of a project's leases (None: of all) that are any."""
    rows = tx.fetch(
        "SELECT s.*, l.reservation_id, l.provider, l.instance_id FROM settlements s JOIN leases l ON l.id = s.lease_id "
        "WHERE s.charged <> s.metered AND (? IS NULL OR l.project = ?)",
        (project, project),
    )
    return tuple(
        Adjustment(
            lease_id=row["lease_id"],
            reservation_id=row["reservation_id"],
            provider=row["provider"],
            instance_id=row["instance_id"],
            at=moment(row["at"]),
            charged=row["charged"],
            metered=row["metered"],
        )
        for row in rows
    )
