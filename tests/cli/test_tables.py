"""The text of numbers, ages and tables."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.cli import tables


def test_columns_have_the_width_of_their_widest_cell_and_numbers_are_right_aligned() -> None:
    text = tables.table(("NAME", "N"), [("a", "1"), ("longer", "10"), ("", "")])
    assert text.splitlines() == ["NAME     N", "a        1", "longer  10", "-        -"]


def test_a_table_without_rows_has_only_headers() -> None:
    assert tables.table(("A", "B"), []) == "A  B"


@pytest.mark.parametrize(
    ("usd", "text"), [(1.24, "$1.24"), (0.0875, "$0.0875"), (2, "$2.00"), (0.125, "$0.1250"), (0, "$0.00")]
)
def test_prices_have_two_decimals_or_four_if_needed(usd: float, text: str) -> None:
    assert tables.price(usd) == text


def test_costs_are_shown_per_hour_day_week_and_month() -> None:
    assert tables.costs(1.24) == "$1.24/h = $29.76/day, $208.32/week, $892.80/month (30 d)"
    assert tables.costs(100) == "$100.00/h = $2,400.00/day, $16,800.00/week, $72,000.00/month (30 d)"


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.084536166, "$0.0846"), (0.0845, "$0.0845"), (1.24, "$1.24"), (0.3, "$0.30"), (2.250001, "$2.2501")],
)
def test_a_price_used_as_a_limit_is_rounded_up(usd: float, text: str) -> None:
    assert tables.limit(usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (4, "4 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_ages_have_a_short_unit(seconds: float, text: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    stamp = Timestamp()
    stamp.FromDatetime(now - timedelta(seconds=seconds))
    assert tables.age(stamp, now) == text


def test_an_unset_time_is_empty() -> None:
    assert tables.moment(Timestamp()) == ""
    assert tables.age(Timestamp(), datetime(2026, 1, 2, tzinfo=UTC)) == ""
