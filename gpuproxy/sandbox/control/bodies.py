"""Values from the bodies of control calls."""

from typing import Any


class WrongCall(Exception):
    """The call can't be executed; the text says why."""


def number_in(body: dict[str, Any], name: str) -> float:
    """A number of at least 0. Raises WrongCall."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise WrongCall(f"{name} must be a number of at least 0")
    return float(value)
