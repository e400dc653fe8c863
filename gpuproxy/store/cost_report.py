"""What was spent in a period by lease and day (UTC): from the ledger, and from what open meters have accrued since."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from gpuproxy.model.money import Micro
from gpuproxy.ports import Tx
from gpuproxy.store import ledger
from gpuproxy.store.ledger import Charge
from gpuproxy.store.rows import micros, moment

_DAY = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """The cost of one lease on one day (UTC)."""

    day: date
    provider: str
    project: str
    gpu_model: str
    """"" for a volume."""
    labels: Mapping[str, str]
    """Those of the reservation."""
    amount: Micro
    gpu_time: int
    """GPUs times microseconds."""
    surplus: bool
    """The machine had been given up: no project pays for it."""


def lines(tx: Tx, project: str | None, since: datetime, until: datetime) -> tuple[CostLine, ...]:
    """The costs of a project within a period, or of all projects and the surplus for None; by day and lease."""
    window = (micros(since), micros(min(until, tx.now())))
    sums = _Sums(window)
    for account in ledger.debited_accounts(tx, project):
        surplus = ledger.is_surplus(account)
        for row in _within_days(tx, account, window):
            sums.add(row, row["day"], row["amount"], row["gpu_time"], surplus=surplus)
        for row in _others(tx, account, window):
            charge = Charge(
                kind="adjustment", amount=row["amount"], since=row["since"], until=row["until"],
                gpu_time=row["gpu_time"],
            )  # fmt: skip
            sums.spread(row, charge, surplus=surplus)
    for meter, charge in ledger.unposted(tx, project, None):
        sums.spread(meter, charge, surplus=meter["kind"] == "surplus")
    about = _about(tx, sums.leases)
    return tuple(
        CostLine(
            day=moment(day * _DAY).date(),
            provider=sums.leases[lease_id][0],
            project=sums.leases[lease_id][1],
            gpu_model=about[lease_id]["gpu_model"],
            labels=dict(json.loads(about[lease_id]["labels"])),
            amount=Micro(amount),
            gpu_time=gpu_time,
            surplus=surplus,
        )
        for (day, lease_id, surplus), (amount, gpu_time) in sorted(sums.by_day.items())
    )


@dataclass(slots=True)
class _Sums:
    """The amounts and GPU times of each day, lease, and side."""

    window: tuple[int, int]
    by_day: dict[tuple[int, str, bool], tuple[int, int]] = field(default_factory=dict)
    leases: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The provider and the project of each."""

    def add(self, of: Mapping[str, Any], day: int, amount: int, gpu_time: int, *, surplus: bool) -> None:
        """Add to a day what belongs to it."""
        key = (day, of["lease_id"], surplus)
        before = self.by_day.get(key, (0, 0))
        self.by_day[key] = (before[0] + amount, before[1] + gpu_time)
        self.leases[of["lease_id"]] = (of["provider"], of["project"])

    def spread(self, of: Mapping[str, Any], charge: Charge, *, surplus: bool) -> None:
        """Add the parts of a cost that are within the window to their days."""
        since, until = max(charge.since, self.window[0]), min(charge.until, self.window[1])
        for day in range(since // _DAY, (until - 1) // _DAY + 1):
            within = (max(since, day * _DAY), min(until, (day + 1) * _DAY))
            amount, time = (ledger.part(charge, of_all, within) for of_all in (charge.amount, charge.gpu_time))
            self.add(of, day, amount, time, surplus=surplus)


def _within_days(tx: Tx, account: str, window: tuple[int, int]) -> list[Mapping[str, Any]]:
    """The postings that lie within the window and within one day, added up."""
    return tx.fetch(
        "SELECT lease_id, since / ? AS day, min(provider) AS provider, min(project) AS project, "
        "sum(amount) AS amount, sum(gpu_time) AS gpu_time FROM ledger "
        "WHERE account = ? AND until >= ? AND until <= ? AND since >= ? AND since < ? "
        "AND (until = since OR (until - 1) / ? = since / ?) GROUP BY 1, 2",
        (_DAY, account, *window, *window, _DAY, _DAY),
    )


def _others(tx: Tx, account: str, window: tuple[int, int]) -> list[Mapping[str, Any]]:
    """The postings of several days, and those that are only partly within the window."""
    return tx.fetch(
        "SELECT lease_id, provider, project, since, until, amount, gpu_time FROM ledger "
        "WHERE account = ? AND until > ? AND since < ? AND until > since "
        "AND (since < ? OR until > ? OR (until - 1) / ? <> since / ?)",
        (account, *window, *window, _DAY, _DAY),
    )


def _about(tx: Tx, lease_ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
    """The model and the labels of leases, also of those that were deleted."""
    wanted = json.dumps(list(lease_ids))
    rows = tx.fetch(
        "SELECT lease_id, gpu_model, labels FROM ledger_leases WHERE lease_id IN (SELECT value FROM json_each(?)) "
        "UNION SELECT l.id, l.gpu_model, r.labels FROM leases l CROSS JOIN reservations r ON r.id = l.reservation_id "
        "WHERE l.id IN (SELECT value FROM json_each(?))",
        (wanted, wanted),
    )
    return {row["lease_id"]: row for row in rows}
