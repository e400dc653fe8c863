"""The header Retry-After of an answer: seconds, or an HTTP date."""

from datetime import datetime
from email.utils import parsedate_to_datetime


def seconds_of(header: str | None, now: datetime, *, longest: float) -> float | None:
    """Seconds until the next call makes sense, at most `longest`. None if the header is missing or can't be read."""
    if header is None:
        return None
    seconds = number_of(header)
    if seconds is None:
        seconds = _seconds_until(header, now)
    return None if seconds is None else within(seconds, longest)


def number_of(text: str | None) -> float | None:
    """The number in a header; None if it has none."""
    try:
        return float(text or "")
    except ValueError:
        return None


def within(seconds: float, most: float) -> float:
    """The seconds, limited to 0 and `most`. NaN becomes `most`."""
    return max(0.0, seconds) if seconds <= most else most


def _seconds_until(http_date: str, now: datetime) -> float | None:
    try:
        return (parsedate_to_datetime(http_date) - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
