"""How numbers, ages and tables print."""

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.cli import tables


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_are_flush_right() -> None:
    text = tables.table(("NAME", "N"), [("a", "1"), ("longer", "10"), ("", "")])
    assert text.splitlines() == ["NAME     N", "a        1", "longer  10", "-        -"]


def test_a_table_without_rows_is_its_headers() -> None:
    assert tables.table(("A", "B"), []) == "A  B"


@pytest.mark.parametrize(
    ("usd", "text"), [(1.24, "$1.24"), (0.0875, "$0.0875"), (2, "$2.00"), (0.125, "$0.1250"), (0, "$0.00")]
)
def test_prices_show_cents_and_what_cents_would_hide(usd: float, text: str) -> None:
    assert tables.price(usd) == text


def test_an_hourly_price_is_told_by_day_week_and_month() -> None:
    assert tables.costs(1.24) == "$1.24/h = $29.76/day, $208.32/week, $892.80/month (30 d)"
    assert tables.costs(100) == "$100.00/h = $2,400.00/day, $16,800.00/week, $72,000.00/month (30 d)"


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.084536166, "$0.0846"), (0.0845, "$0.0845"), (1.24, "$1.24"), (0.3, "$0.30"), (2.250001, "$2.2501")],
)
def test_a_limit_is_rounded_up_so_that_it_lets_pass_what_it_stands_beside(usd: float, text: str) -> None:
    assert tables.limit(usd) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (4, "4 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (172800, "2 d")]
)
def test_ages_are_in_the_unit_that_people_would_use(seconds: float, text: str) -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    stamp = Timestamp()
    stamp.FromDatetime(now - timedelta(seconds=seconds))
    assert tables.age(stamp, now) == text


def test_no_time_prints_as_nothing() -> None:
    assert tables.moment(Timestamp()) == ""
    assert tables.age(Timestamp(), datetime(2026, 1, 2, tzinfo=UTC)) == ""
