"""Text for the terminal: aligned tables, amounts of money, ages. Nothing here calls a server or prints."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.model.money import HOURS_PER_MONTH

_NUMBER = re.compile(r"[-+]?\$?[\d,]*\.?\d+(%|/h| s| ms)?|-")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with aligned columns. Columns of numbers are aligned to the right. An empty cell becomes a dash.

    Line breaks in a cell become spaces.
    """
    filled = [[" ".join(cell.splitlines()) or "-" for cell in row] for row in rows]
    columns = list(zip(headers, *filled, strict=True))
    numeric = [bool(filled) and all(_NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in [list(headers), *filled]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def hourly(usd: float) -> str:
    """USD per hour, as `$1.24/h` or `$0.0875/h`."""
    return f"{price(usd)}/h"


def price(usd: float) -> str:
    """USD with two decimals, or with four if they are not zero: `$1.24`, `$0.0875`."""
    return f"${usd:.4f}".removesuffix("00")


def limit(usd: float) -> str:
    """As `price`, but rounded up, so that an offer passes if the printed price is used as the limit."""
    return price(math.ceil(round(usd * 10_000, 2)) / 10_000)


def amount(usd: float) -> str:
    """USD in whole cents: `$1,234.50`."""
    return f"${usd:,.2f}"


def costs(usd_per_hour: float) -> str:
    """USD per hour, day, week and month: `$1.24/h = $29.76/day, $208.32/week, $892.80/month (30 d)`."""
    day, week, month = estimates(usd_per_hour)
    return f"{hourly(usd_per_hour)} = {day}/day, {week}/week, {month}/month (30 d)"


def estimates(usd_per_hour: float) -> tuple[str, str, str]:
    """The cost of a day, a week and a month of 30 days, as text."""
    day, week, month = (amount(usd_per_hour * hours) for hours in (24, 7 * 24, HOURS_PER_MONTH))
    return day, week, month


def moment(stamp: Timestamp) -> str:
    """A time in UTC, as `2024-12-20 15:30:00Z`; "" if the timestamp is not set."""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if stamp.ByteSize() else ""


def age(stamp: Timestamp, now: datetime) -> str:
    """The time from the stamp to `now`: `42 s`, `3 min`, `5 h`, `2 d`; "" if the stamp is not set."""
    if not stamp.ByteSize():
        return ""
    return span((now - stamp.ToDatetime(UTC)).total_seconds())


def span(seconds: float) -> str:
    """A duration in the unit that leaves a short number: `119 s`, `119 min`, `47 h`, `2 d`."""
    seconds = max(0.0, seconds)
    for limit, size, unit in ((120, 1, "s"), (120 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
