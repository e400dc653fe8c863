"""Money is a whole number of micro-dollars; floats exist only where a message or a marketplace speaks them.

Rounding is half to even, done once, on the decimal text of the number, so that 0.1 + 0.2 never shows in a bill.
"""

from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NewType

Micro = NewType("Micro", int)
"""Micro-dollars: 1 USD = 1,000,000."""

_MILLION = Decimal(1_000_000)
_HOUR_US = 3_600_000_000
HOURS_PER_MONTH = 720
"""The marketplaces' month: 30 days."""


def micro(usd: float | str | Decimal) -> Micro:
    """Micro-dollars of a finite amount in USD; raises ValueError for NaN and infinities."""
    value = usd if isinstance(usd, Decimal) else Decimal(str(usd))
    if not value.is_finite():
        raise ValueError(f"not an amount of money: {usd}")
    return Micro(int((value * _MILLION).to_integral_value(ROUND_HALF_EVEN)))


def usd(amount: int) -> float:
    """USD as a float, for messages only."""
    return amount / 1_000_000


def accrued(rate_per_hour: int, duration: timedelta) -> Micro:
    """What an hourly rate comes to over a duration, rounded down to a micro-dollar."""
    return Micro(rate_per_hour * (duration // timedelta(microseconds=1)) // _HOUR_US)


def dollars(amount: int) -> str:
    """`$1.24`; amounts below a dollar with four decimals, those that four would hide with six."""
    size = abs(amount)
    decimals = 2 if size >= 1_000_000 or size == 0 else 4 if size >= 100 else 6
    return f"{'-' if amount < 0 else ''}${Decimal(size) / _MILLION:.{decimals}f}"
