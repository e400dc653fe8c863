"""The command `costs`: what was spent, added up, as a table with bars, as JSON or as CSV."""

import csv
import io
from collections.abc import Sequence
from datetime import datetime

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import MomentType, TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.client.demands import cost_report_request
from gpuproxy.v1 import gpuproxy_pb2 as pb

_BAR = 30
"""The characters of the longest bar."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would execute."""


@click.command()
@click.option(
    "--by",
    "group_by",
    multiple=True,
    default=("day",),
    type=TextType(),
    metavar="WORD",
    help="Add up by day (UTC, the default), provider, project, model or label:KEY. Repeat it to combine them.",
)
@click.option("--since", "start_time", type=MomentType(), help="Begin (default: 30 days before the end).")
@click.option("--until", "end_time", type=MomentType(), help="End (default: now).")
@click.option("--project", type=TextType(), help="One project (default: your own; for admins, all).")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@client_command
def costs(
    connection: Connection,
    /,
    *,
    group_by: Sequence[str],
    start_time: datetime | None,
    end_time: datetime | None,
    project: str | None,
    as_csv: bool,
) -> None:
    """Show what was spent, added up by day, provider, project, model or label."""
    if as_csv and connection.as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    if start_time is not None and end_time is not None and start_time >= end_time:
        raise click.UsageError("--since must be before --until.")
    request = cost_report_request(group_by, since=start_time, until=end_time, project=project or "")
    answer = connection.call(connection.stub.GetCostReport, request)
    words = tuple(dict.fromkeys(word if word.startswith("label:") else word.lower() for word in group_by))
    if connection.as_json:
        connection.print_json(answer)
    elif as_csv:
        click.echo(_csv(words, answer.rows), nl=False)
    else:
        click.echo(_table(words, answer))


def _table(words: Sequence[str], answer: pb.GetCostReportResponse) -> str:
    most = max((row.amount for row in answer.rows), default=0.0)
    rows = [
        [*(row.keys[word] for word in words), f"${row.amount:.4f}", f"{row.gpu_hours:.1f}", _bar(row.amount, most)]
        for row in answer.rows
    ]
    lines = [tables.table([*(word.upper() for word in words), "COST", "GPU-HOURS", ""], rows)] if rows else []
    lines.append(f"total ${answer.total:.4f}" if rows else "Nothing was spent in this time.")
    if answer.surplus:
        lines.append(f"surplus ${answer.surplus:.4f}: machines that appeared after they had been given up")
    return "\n".join(lines)


def _bar(amount: float, most: float) -> str:
    """A bar, at least one character long for any cost that is shown; a blank for a refund or nothing."""
    return "#" * max(1, round(_BAR * amount / most)) if round(amount, 4) > 0 else " "


def _csv(words: Sequence[str], rows: Sequence[pb.CostReportRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*map(_cell, words), "cost_usd", "gpu_hours"])
    for row in rows:
        writer.writerow([*(_cell(row.keys[word]) for word in words), f"{row.amount:.6f}", f"{row.gpu_hours:.4f}"])
    return text.getvalue()


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: such a cell begins with an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA) else text
