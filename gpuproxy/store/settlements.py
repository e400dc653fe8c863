"""The marketplaces' charges for ended machines, compared with our meters.

Each reading of a charge is a row. Its amount is the difference to the previous reading, so that an adjustment that was
reported never changes. It is posted to the ledger for the machine's life.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gpuproxy.model.leases import InstanceId, LeaseId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.transactions import Adjustment
from gpuproxy.ports import Tx
from gpuproxy.store import events, ledger
from gpuproxy.store.rows import micros, moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """An ended machine whose charge isn't final yet."""

    lease_id: LeaseId
    instance_id: InstanceId
    began: datetime
    ended: datetime


def due(tx: Tx, account: AccountKey, since: datetime, until: datetime, again: timedelta) -> tuple[Unsettled, ...]:
    """The account's machines that ended in this period and whose charge must be read.

    A machine is due if its charge was never read, if it reappeared after the last reading, or if the last reading is at
    least `again` old and the last two readings differ.
    """
    rows = tx.fetch(
        "SELECT l.id, l.instance_id, coalesce(l.call_started_at, l.created_at) AS began, l.ended_at, "
        "(SELECT max(at) FROM settlements s WHERE s.lease_id = l.id) AS read_at FROM leases l "
        "WHERE provider = ? AND account = ? AND instance_id IS NOT NULL AND ended_at BETWEEN ? AND ? "
        "AND charge_final = 0",
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
        if row["read_at"] is None or row["read_at"] < row["ended_at"] or moment(row["read_at"]) <= tx.now() - again
    )


def save(tx: Tx, lease_id: LeaseId, *, charged: Micro, metered: Micro) -> Micro:
    """Store a reading of the total charge; returns the adjustment in micro-dollars. Each reading has its own time.

    The charge is final if this reading equals the last one. If the machine reappears, its charge is due again.
    """
    amount = Micro(charged - metered - difference(tx, lease_id))
    tx.write(
        "INSERT INTO settlements (lease_id, project, at, charged, metered, amount) "
        "SELECT ?, (SELECT project FROM leases WHERE id = ?), max(?, coalesce(max(at) + 1, 0)), ?, ?, ? "
        "FROM settlements WHERE lease_id = ?",
        (lease_id, lease_id, micros(tx.now()), charged, metered, amount, lease_id),
    )
    began, ended = _life(tx, lease_id)
    ledger.post(
        tx,
        lease_id,
        ledger.Charge(kind="adjustment", amount=amount, since=began, until=ended),
        surplus=events.was_given_up(tx, lease_id),
    )
    if _certain(tx, lease_id):
        tx.write("UPDATE leases SET charge_final = 1 WHERE id = ?", (lease_id,))
    return amount


def difference(tx: Tx, lease_id: LeaseId) -> Micro:
    """The sum of a lease's adjustments in micro-dollars: charge minus meters, or 0 without a reading."""
    row = tx.fetch_one("SELECT coalesce(sum(amount), 0) AS short FROM settlements WHERE lease_id = ?", (lease_id,))
    return Micro(0 if row is None else row["short"])


def newest(tx: Tx, project: str | None, limit: int) -> tuple[Adjustment, ...]:
    """The last `limit` adjustments of a project's leases, or of all projects for None."""
    of_project, which = ("", ()) if project is None else ("s.project = ? AND ", (project,))
    rows = tx.fetch(
        "SELECT s.*, l.reservation_id, l.provider, l.instance_id FROM settlements s "  # noqa: S608 - our own words
        f"CROSS JOIN leases l ON l.id = s.lease_id WHERE {of_project}s.amount <> 0 "
        "ORDER BY s.at DESC, s.lease_id LIMIT ?",
        (*which, limit),
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
            amount=row["amount"],
        )
        for row in rows
    )


def _life(tx: Tx, lease_id: LeaseId) -> tuple[int, int]:
    """When a machine was created and when it ended, in microseconds since 1970. It can't end later than now."""
    now = micros(tx.now())
    [row] = tx.fetch(
        "SELECT coalesce(call_started_at, created_at) AS began, ended_at FROM leases WHERE id = ?", (lease_id,)
    )
    ended = now if row["ended_at"] is None else min(now, row["ended_at"])
    return min(row["began"], ended), ended


def _certain(tx: Tx, lease_id: LeaseId) -> bool:
    """True if the last two readings are equal."""
    rows = tx.fetch("SELECT charged FROM settlements WHERE lease_id = ? ORDER BY at DESC LIMIT 2", (lease_id,))
    return len(rows) == 2 and rows[0]["charged"] == rows[1]["charged"]
