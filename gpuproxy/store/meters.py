"""The meters: their changes, the costs of an account in a period, and the newest meters of a project's leases."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from gpuproxy.model.leases import InstanceId, Lease, LeaseId, LeaseState
from gpuproxy.model.meter import meter_rate
from gpuproxy.model.money import Micro, accrued
from gpuproxy.model.offers import AccountKey
from gpuproxy.model.transactions import Meter
from gpuproxy.ports import Tx
from gpuproxy.store import events, ledger
from gpuproxy.store.rows import micros, moment

_OPEN = "SELECT * FROM meters WHERE lease_id = ? AND closed_at IS NULL"


def ahead(tx: Tx, lease_id: LeaseId) -> None:
    """Say that `change` will be called."""
    tx.ahead(_OPEN, (lease_id,))


def change(tx: Tx, lease: Lease, *, again: bool) -> None:
    """Close the meter of a lease, which posts its cost, and open one if the lease costs something now.

    `again`: the event that changes the lease is that its machine has reappeared.
    """
    now, rate = micros(tx.now()), meter_rate(lease)
    for row in tx.fetch(_OPEN, (lease.id,)):  # there is one at most
        ledger.post_meter(tx, {**row, "num_gpus": lease.offered.num_gpus}, now)
        tx.write("UPDATE meters SET closed_at = ? WHERE lease_id = ? AND closed_at IS NULL", (now, lease.id))
    if rate is not None:
        surplus = again or (lease.state is LeaseState.RELEASING and events.was_given_up(tx, lease.id))
        tx.write(
            "INSERT INTO meters (lease_id, project, opened_at, rate, kind) VALUES (?, ?, ?, ?, ?)",
            (lease.id, lease.project, now, rate, "surplus" if surplus else _kind(lease, rate)),
        )


def _kind(lease: Lease, rate: Micro) -> ledger.Kind:
    if lease.kind == "volume":
        return "volume"
    return "storage" if rate <= lease.observed.disk_price else "gpu"


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
    # CROSS JOIN: from the few meters to their leases. The other way round, all leases of the account are read.
    of_account = (
        "SELECT m.opened_at, m.closed_at, m.rate FROM meters m CROSS JOIN leases l ON l.id = m.lease_id "
        "WHERE l.provider = ? AND l.account = ? AND m.opened_at < ?"
    )
    rows = tx.fetch(
        f"{of_account} AND m.closed_at IS NULL UNION ALL {of_account} AND m.closed_at > ?",
        (*account, micros(until), *account, micros(until), micros(since)),
    )
    return [
        (moment(row["opened_at"]), until if row["closed_at"] is None else moment(row["closed_at"]), row["rate"])
        for row in rows
    ]


def newest(tx: Tx, project: str | None, limit: int) -> tuple[Meter, ...]:
    """The open meters of a project, or of all projects for None, and its `limit` closed meters that ended last.

    Meters without duration are left out. The newest `limit` transactions are all of these meters: each meter that ended
    later has one transaction at least that is newer.
    """
    of_project, which = ("", ()) if project is None else ("m.project = ? AND ", (project,))
    still = tx.fetch(f"{_SELECT} WHERE {of_project}m.closed_at IS NULL", which)
    ended = tx.fetch(
        f"{_SELECT} WHERE {of_project}m.closed_at IS NOT NULL AND m.closed_at > m.opened_at "
        "ORDER BY m.closed_at DESC, m.lease_id LIMIT ?",
        (*which, limit),
    )
    return tuple(_meter(row) for row in (*still, *ended))


_SELECT = (
    "SELECT m.lease_id, m.opened_at, m.closed_at, m.rate, l.reservation_id, l.provider, l.instance_id, l.gpu_model, "
    "l.num_gpus, l.disk_price FROM meters m CROSS JOIN leases l ON l.id = m.lease_id"
)


def _meter(row: Mapping[str, Any]) -> Meter:
    return Meter(
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
