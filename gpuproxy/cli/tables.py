"""How things print: aligned tables, money, ages. Text only; nothing here talks to a server or to the terminal."""

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.model.money import HOURS_PER_MONTH

_NUMBER = re.compile(r"[-+]?\$?[\d,]*\.?\d+(%|/h| s| ms)?|-")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; columns of numbers are flush right. Empty cells print as a dash."""
    filled = [[cell or "-" for cell in row] for row in rows]
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
    """`$1.24/h`, to a hundredth of a cent where cents are not enough."""
    return f"{price(usd)}/h"


def price(usd: float) -> str:
    """`$1.24`, `$0.0875`."""
    return f"${usd:.4f}".removesuffix("00")


def limit(usd: float) -> str:
    """As price, rounded up: a limit at what is printed lets the offer pass."""
    return price(math.ceil(round(usd * 10_000, 2)) / 10_000)


def amount(usd: float) -> str:
    """`$1,234.50`: whole cents."""
    return f"${usd:,.2f}"


def costs(usd_per_hour: float) -> str:
    """`$1.24/h = $29.76/day, $208.32/week, $892.80/month (30 d)`."""
    day, week, month = estimates(usd_per_hour)
    return f"{hourly(usd_per_hour)} = {day}/day, {week}/week, {month}/month (30 d)"


def estimates(usd_per_hour: float) -> tuple[str, str, str]:
    """What a day, a week and a month of 30 days cost."""
    day, week, month = (amount(usd_per_hour * hours) for hours in (24, 7 * 24, HOURS_PER_MONTH))
    return day, week, month


def moment(stamp: Timestamp) -> str:
    """`2024-12-20 15:30:00Z`; "" for no time."""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if stamp.ByteSize() else ""


def age(stamp: Timestamp, now: datetime) -> str:
    """How long before `now`: `42 s`, `3 min`, `5 h`, `2 d`; "" for no time."""
    if not stamp.ByteSize():
        return ""
    return span((now - stamp.ToDatetime(UTC)).total_seconds())


def span(seconds: float) -> str:
    """The largest unit that leaves a number of two digits or so."""
    seconds = max(0.0, seconds)
    for limit, size, unit in ((120, 1, "s"), (120 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
