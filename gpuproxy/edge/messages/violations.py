"""Collects the validation errors of a request, so that they are reported together.

Fields are named as in the contract. A value is quoted only if it can't be a secret, and it is truncated.
"""

import math
from collections.abc import Collection

from gpuproxy.model.errors import InvalidArgument, Violation

_SHOWN = 40
_MAX = 50
"""At most 50 validation errors are reported. Validation stops there."""


class Violations:
    """The violations found so far. Each check returns a value, so that translation can continue."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Add a violation; raises InvalidArgument at the fiftieth."""
        self._found.append(Violation(field, description))
        if len(self._found) == _MAX:
            self.finish()

    def finish(self) -> None:
        """Raise InvalidArgument if there are violations."""
        if self._found:
            raise InvalidArgument(self._found)

    def number(self, field: str, value: float, least: float, most: float) -> float:
        """Check for a finite number from `least` to `most`."""
        if not math.isfinite(value):
            self.add(field, "must be a finite number")
            return least
        if not least <= value <= most:
            self.add(field, f"must be {_span(least, most)}, not {value:,.12g}")
        return value

    def word(self, field: str, value: str, words: Collection[str], default: str) -> str:
        """Check for one of `words`, ignoring case and accepting - for _; "" gives the default."""
        folded = value.strip().lower().replace("-", "_")
        if not folded:
            return default
        if folded not in words:
            self.add(field, f"must be one of {', '.join(words)}, not {shown(value)}")
        return folded

    def text(self, field: str, value: str, most: int) -> str:
        """Check for at most `most` printable characters; returns the stripped text."""
        stripped = value.strip()
        if len(stripped) > most:
            self.add(field, f"must have at most {most} characters, not {len(stripped)}")
        elif not stripped.isprintable():
            self.add(field, "must be printable text on one line")
        return stripped

    def at_most(self, field: str, what: str, count: int, most: int) -> None:
        """Check that `count` is at most `most`; `what` is the plural noun in the error."""
        if count > most:
            self.add(field, f"must have at most {most} {what}, not {count}")


def shown(value: str) -> str:
    """A value as error texts quote it, truncated to 40 characters."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def _span(least: float, most: float) -> str:
    return f"at least {least:,.12g}" if math.isinf(most) else f"{least:,.12g} to {most:,.12g}"
