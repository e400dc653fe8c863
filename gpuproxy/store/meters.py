"""The meters: the costs of an account in a period, and all meters of a project's leases."""

from datetime import datetime, timedelta

from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.transactions import Meter
from gpuproxy.ports import Tx
from gpuproxy.store.rows import micros, moment


def accrued_between(tx: Tx, account: AccountKey, since: datetime, until: datetime) -> Micro:
    """The cost of an account's meters within a period, in micro-dollars."""
    total = 0
    for opened, closed, rate in _touching(tx, account, since, until):
        total += accrued(rate, max(timedelta(0), min(closed, until) - max(opened, since)))
    return Micro(total)


def accrued_by_each(tx: Tx, account: AccountKey, since: datetime, until: datetime, duration: timedelta) -> Micro:
    """The cost if every meter of the period ran for `duration`, in micro-dollars."""
    return Micro(sum(accrued(rate, duration) for _, _, rate in _touching(tx, account, since, until)))


def _touching(tx: Tx, account: AccountKey, since: datetime, until: datetime) -> list[tuple[datetime, datetime, int]]:
    rows = tx.fetch(
        "SELECT m.opened_at, m.closed_at, m.rate FROM meters m JOIN leases l ON l.id = m.lease_id "
        "WHERE l.provider = ? AND l.account = ? AND m.opened_at < ? AND (m.closed_at IS NULL OR m.closed_at > ?)",
        (*account, micros(until), micros(since)),
    )
    return [
        (moment(row["opened_at"]), until if row["closed_at"] is None else moment(row["closed_at"]), row["rate"])
        for row in rows
    ]


def of_project(tx: Tx, project: str | None) -> tuple[Meter, ...]:
    """All meters of a project's leases, or of all projects for None."""
    rows = tx.fetch(
        "SELECT m.lease_id, m.opened_at, m.closed_at, m.rate, l.reservation_id, l.provider, l.instance_id, "
        "l.gpu_model, l.num_gpus, l.disk_price FROM meters m JOIN leases l ON l.id = m.lease_id "
        "WHERE ? IS NULL OR l.project = ? ORDER BY m.rowid",
        (project, project),
    )
    return tuple(
        Meter(
            lease_id=row["lease_id"],
            reservation_id=row["reservation_id"],
            provider=row["provider"],
            instance_id=InstanceId(row["instance_id"] or ""),
            gpu_model=row["gpu_model"],
            num_gpus=row["num_gpus"],
            storage=row["rate"] <= row["disk_price"],
            rate=row["rate"],
            opened_at=moment(row["opened_at"]),
            closed_at=None if row["closed_at"] is None else moment(row["closed_at"]),
        )
        for row in rows
    )
