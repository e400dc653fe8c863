"""The page Costs: what was spent, by day, project, model or provider, the limits, and the same as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import timedelta

from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.edge.web.forms import Form
from gpuproxy.edge.web.rendering import HEADERS
from gpuproxy.edge.web.visits import Visit
from gpuproxy.model.errors import InvalidArgument, Violation
from gpuproxy.v1 import gpuproxy_pb2 as pb

GROUPS = ("day", "provider", "model", "project")
_DAYS, _MOST_DAYS = 30, 366
_MOST_ROWS = 400
"""Rows of a table on the page; the CSV has all."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet would run a text that begins so."""


async def page(visit: Visit) -> web.Response:
    """The report, the limits, and the chart by day."""
    report = await visit.call(_request(visit), pb.GetCostReportResponse)
    spending = await visit.call(pb.GetSpendingInfoRequest(), pb.GetSpendingInfoResponse)
    by_day = await visit.call(_request(visit, by=("day",)), pb.GetCostReportResponse)
    return visit.page(
        "costs.html",
        report=report,
        rows=report.rows[:_MOST_ROWS],
        windows=spending.windows,
        by=_by(visit.query),
        days=_days(visit.query),
        groups=GROUPS,
        chart=_by_day(visit, {row.keys["day"]: row.amount for row in by_day.rows}),
        csv=str(visit.request.rel_url.with_path("/ui/costs.csv")),
    )


async def table(visit: Visit) -> web.Response:
    """The report as CSV. No cell is a formula, whatever a project or a model is called."""
    by = _by(visit.query)
    report = await visit.call(_request(visit), pb.GetCostReportResponse)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([*by, "usd", "gpu_hours"])
    for row in report.rows:
        writer.writerow([*(harmless(row.keys[name]) for name in by), f"{row.amount:.6f}", f"{row.gpu_hours:.4f}"])
    headers = {**HEADERS, "Content-Disposition": 'attachment; filename="gpuproxy-costs.csv"'}
    return web.Response(text=out.getvalue(), content_type="text/csv", charset="utf-8", headers=headers)


def harmless(text: str) -> str:
    """The text as a spreadsheet shows it, but never runs it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _by_day(visit: Visit, spent: Mapping[str, float]) -> list[tuple[str, float]]:
    """Each day of the period with what was spent, also if it was nothing."""
    today = visit.site.clock.now().date()
    days = [(today - timedelta(days=ago)).isoformat() for ago in reversed(range(_days(visit.query) + 1))]
    return [(day, round(spent.get(day, 0.0), 6)) for day in days]


def _request(visit: Visit, by: Sequence[str] = ()) -> pb.GetCostReportRequest:
    until = visit.site.clock.now()
    begin, end = Timestamp(), Timestamp()
    begin.FromDatetime(until - timedelta(days=_days(visit.query)))
    end.FromDatetime(until)
    return pb.GetCostReportRequest(start_time=begin, end_time=end, group_by=by or _by(visit.query))


def _by(query: Form) -> tuple[str, ...]:
    """The groups that are asked for, in the order of the form."""
    return tuple(name for name in GROUPS if name in query) or ("day",)


def _days(query: Form) -> int:
    text = query.get("days", str(_DAYS))
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and 0 < int(text) <= _MOST_DAYS):
        raise InvalidArgument([Violation("days", f"must be 1 to {_MOST_DAYS}")])
    return int(text)
