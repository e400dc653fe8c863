from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuproxy.model.money import accrued, dollars, micro, usd


def test_an_amount_is_its_decimal_text_and_not_its_binary_neighbour() -> None:
    assert micro(0.1) + micro(0.2) == micro(0.3) == 300_000
    assert micro("0.29") == micro(0.29) == micro(Decimal("0.29")) == 290_000
    assert micro(-1.5) == -1_500_000


def test_half_a_micro_dollar_goes_to_the_even_one() -> None:
    assert [micro(Decimal(f"0.00000{digits}")) for digits in ("05", "15", "25", "151")] == [0, 2, 2, 2]


@pytest.mark.parametrize("amount", ["nan", "inf", "-inf"])
def test_an_invalid_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        micro(float(amount))


def test_what_an_hour_costs_accrues_by_the_micro_dollar_rounded_down() -> None:
    assert accrued(3_600_000, timedelta(seconds=1)) == 1000
    assert accrued(1_000_000, timedelta(minutes=20)) == 333_333
    assert accrued(1_000_000, timedelta()) == 0
    assert accrued(1_999_999_999, timedelta(days=3650)) == 1_999_999_999 * 24 * 3650


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1_240_000, "$1.24"), (0, "$0.00"), (5, "$0.000005"), (12_500_000, "$12.50"), (-1_000_000, "-$1.00")],
)
def test_money_is_shown_in_cents_and_finer_only_where_cents_would_hide_it(amount: int, text: str) -> None:
    assert dollars(amount) == text


def test_messages_are_in_dollars() -> None:
    assert usd(1_250_000) == 1.25


@given(st.floats(min_value=-2000, max_value=2000, allow_nan=False))
def test_the_short_way_for_usual_amounts_rounds_as_the_decimal_text_does(amount: float) -> None:
    exact = (Decimal(str(amount)) * 1_000_000).to_integral_value(ROUND_HALF_EVEN)
    assert micro(amount) == int(exact)


@pytest.mark.parametrize("half", [0.0000005, 0.0000015, 1.0000005, 999.9999995, -0.0000025, 0.1234565])
def test_halves_of_a_micro_dollar_round_to_even(half: float) -> None:
    assert micro(half) == int((Decimal(str(half)) * 1_000_000).to_integral_value(ROUND_HALF_EVEN))
