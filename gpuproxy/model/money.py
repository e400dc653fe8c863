"""Money as integer micro-dollars. Floats are used only in messages and in the marketplaces' APIs.

A float is converted once, by its decimal text, and rounded half to even, so that binary fractions cause no errors.
"""

from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import NewType

Micro = NewType("Micro", int)
"""Micro-dollars: 1 USD = 1,000,000."""

_QUICK = 1000.0
_MILLION = Decimal(1_000_000)
_HOUR_US = 3_600_000_000
HOURS_PER_MONTH = 720
"""A month for the marketplaces is 30 days."""


def micro(usd: float | str | Decimal) -> Micro:
    """An amount in USD as micro-dollars; raises ValueError for NaN and infinities."""
    if isinstance(usd, float) and -_QUICK < usd < _QUICK:
        # Up to this amount, the product differs from that of the decimal text by less than 3e-7, so that both round
        # alike unless they are that close to a half. This takes a tenth of the time.
        product = usd * 1_000_000
        nearest = round(product)
        if -0.499_999 < product - nearest < 0.499_999:
            return Micro(nearest)
    value = usd if isinstance(usd, Decimal) else Decimal(str(usd))
    if not value.is_finite():
        raise ValueError(f"{usd} is not an amount of money")
    return Micro(int((value * _MILLION).to_integral_value(ROUND_HALF_EVEN)))


def usd(amount: int) -> float:
    """Micro-dollars as USD in a float, for messages only."""
    return amount / 1_000_000


def accrued(rate_per_hour: int, duration: timedelta) -> Micro:
    """The cost of an hourly rate over a duration, rounded down to a micro-dollar."""
    return Micro(rate_per_hour * (duration // timedelta(microseconds=1)) // _HOUR_US)


def dollars(amount: int) -> str:
    """Micro-dollars as text such as `$1.24`: with 2 decimals from $1, 4 below it, and 6 below $0.0001."""
    size = abs(amount)
    decimals = 2 if size >= 1_000_000 or size == 0 else 4 if size >= 100 else 6
    return f"{'-' if amount < 0 else ''}${Decimal(size) / _MILLION:.{decimals}f}"
