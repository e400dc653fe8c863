"""The cost report: what was spent in a period, added up by day, provider, project, label or GPU model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.model.money import Micro
from gpuproxy.ports import Database
from gpuproxy.store import audit, cost_report
from gpuproxy.store.audit import AuditEvent
from gpuproxy.store.cost_report import CostLine

LABEL = "label:"
WORDS = ("day", "provider", "project", "model")
_GPU_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRow:
    """One group of costs."""

    keys: Mapping[str, str]
    """A value for each word of the grouping; "" where there is none."""
    amount: Micro
    gpu_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """Rows in the order of their keys. `total` is the sum of the rows; `surplus` is in none of them."""

    rows: Sequence[CostRow]
    total: Micro
    surplus: Micro
    """What machines cost that appeared after they had been given up. Only in a report of all projects."""


class Costs:
    """Reads the ledger and the audit trail."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def report(
        self, caller: Caller, *, since: datetime, until: datetime, by: Sequence[str], project: str = ""
    ) -> CostReport:
        """What was spent from `since` until before `until`. `by`: of `WORDS`, or `label:<key>`.

        `project` "": the caller's own, or all for an admin. Raises NotFound for a project that the caller can't see.
        """
        if project and not caller.sees(project):
            raise NotFound(f"There is no project {project} that you can see.", metadata={"project": project})
        scope = project or caller.scope
        found = await self._db.read(lambda tx: cost_report.lines(tx, scope, since, until))
        return _report(found, by)

    async def audit(self, project: str | None, *, before: int, limit: int) -> tuple[AuditEvent, ...]:
        """At most `limit` audit events with a lower number than `before` (0: any), newest first. None: all projects."""
        return await self._db.read(lambda tx: audit.newest(tx, project, before, limit))


def _report(lines: Sequence[CostLine], by: Sequence[str]) -> CostReport:
    groups: dict[tuple[str, ...], list[int]] = {}
    for line in lines:
        if not line.surplus:
            sums = groups.setdefault(tuple(_value(line, word) for word in by), [0, 0])
            sums[0] += line.amount
            sums[1] += line.gpu_time
    rows = [
        CostRow(keys=dict(zip(by, values, strict=True)), amount=Micro(amount), gpu_hours=gpu_time / _GPU_HOUR)
        for values, (amount, gpu_time) in sorted(groups.items())
        if amount or gpu_time
    ]
    surplus = sum(line.amount for line in lines if line.surplus)
    return CostReport(rows=rows, total=Micro(sum(row.amount for row in rows)), surplus=Micro(surplus))


def _value(line: CostLine, word: str) -> str:
    if word.startswith(LABEL):
        return line.labels.get(word.removeprefix(LABEL), "")
    fields = {"day": line.day.isoformat(), "provider": line.provider, "project": line.project, "model": line.gpu_model}
    return fields[word]
