"""The RPCs about costs, and about who caused them."""
# ruff: noqa: N802 - methods are named as in the contract

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.billing.costs import LABEL, WORDS, Costs
from gpuproxy.edge.messages.times import timestamp
from gpuproxy.edge.messages.violations import Violations, shown
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.model.money import usd
from gpuproxy.ports import Clock
from gpuproxy.v1 import gpuproxy_pb2 as pb

_USUAL = timedelta(days=30)
_LONGEST = timedelta(days=366)
_EVENTS, _MOST_EVENTS = 50, 1000
_MOST_WORDS, _MOST_ROWS = 5, 10_000
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


class CostCalls:
    """The RPCs about costs and the audit trail; `service` includes them."""

    def __init__(self, costs: Costs, clock: Clock) -> None:
        self._costs = costs
        self._clock = clock

    async def GetCostReport(self, request: pb.GetCostReportRequest, caller: Caller) -> pb.GetCostReportResponse:
        """Add up what was spent in a period."""
        found = Violations()
        until = _moment("end_time", request.end_time, found) if request.HasField("end_time") else self._clock.now()
        usual = max(until, _FIRST + _USUAL) - _USUAL
        since = _moment("start_time", request.start_time, found) if request.HasField("start_time") else usual
        if until <= _FIRST:
            found.add("end_time", "must be after 1970-01-01")
        elif not _FIRST <= since < until:
            found.add("start_time", "must be before end_time, and not before 1970-01-01")
        elif until - since > _LONGEST:
            found.add("start_time", f"must be at most {_LONGEST.days} days before end_time")
        by = _words(request, found)
        project = found.text("project", request.project, 64)
        found.finish()
        report = await self._costs.report(caller, since=since, until=until, by=by, project=project)
        if len(report.rows) > _MOST_ROWS:
            text = f"gives {len(report.rows)} rows; at most {_MOST_ROWS} are returned: ask for less time or fewer words"
            raise InvalidArgument([Violation("group_by", text)])
        return pb.GetCostReportResponse(
            rows=[
                pb.CostReportRow(keys=row.keys, amount=usd(row.amount), gpu_hours=row.gpu_hours) for row in report.rows
            ],
            total=usd(report.total),
            surplus=usd(report.surplus),
        )

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, _caller: Caller) -> pb.ListAuditEventsResponse:
        """Return who asked for what, newest first."""
        found = Violations()
        for name, number in (("limit", request.limit), ("before", request.before)):
            if number < 0:
                found.add(name, "must not be negative")
        project = found.text("project", request.project, 64)
        found.finish()
        limit = min(request.limit or _EVENTS, _MOST_EVENTS)
        events = await self._costs.audit(project or None, before=request.before, limit=limit + 1)
        shown = events[:limit]
        return pb.ListAuditEventsResponse(
            events=[
                pb.AuditEvent(
                    seq=each.seq, at=timestamp(each.at), project=each.project, user_id=each.user_id,
                    key_id=each.key_id, action=each.action, subject=each.subject, detail=each.detail,
                )
                for each in shown
            ],
            next_before=shown[-1].seq if len(events) > limit else 0,
        )  # fmt: skip


def _words(request: pb.GetCostReportRequest, found: Violations) -> tuple[str, ...]:
    """The words of the grouping, in their order and each once."""
    words: dict[str, None] = {}
    found.at_most("group_by", "words", len(request.group_by), _MOST_WORDS)
    for number, raw in enumerate(request.group_by):
        word = raw.strip()
        if word.startswith(LABEL) and len(word) > len(LABEL):
            words[word] = None
        elif word.lower() in WORDS:
            words[word.lower()] = None
        else:
            found.add(f"group_by[{number}]", f"must be one of {', '.join(WORDS)} or label:<key>, not {shown(raw)}")
    return tuple(words) or ("day",)


def _moment(field: str, stamp: Timestamp, found: Violations) -> datetime:
    """The time, but at most `_LAST`; that one for what is a violation."""
    try:
        return min(stamp.ToDatetime(tzinfo=UTC), _LAST)
    except (ValueError, OverflowError):
        found.add(field, "is not a time")
        return _LAST
