"""Collecting what is wrong with a request, so that a caller hears of all of it at once.

Fields are named as in the contract. A value is quoted only where it can't be a secret, and never at length.
"""

import math
from collections.abc import Collection

from gpuproxy.model.errors import InvalidArgument, Violation

_SHOWN = 40
_MOST = 50
"""No answer tells more of them; looking for more would only cost time."""


class Violations:
    """What was found so far; each check returns the value, so that translation can go on."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """One more; raises InvalidArgument at the fiftieth."""
        self._found.append(Violation(field, description))
        if len(self._found) == _MOST:
            self.finish()

    def finish(self) -> None:
        """Raise InvalidArgument if anything was found."""
        if self._found:
            raise InvalidArgument(self._found)

    def number(self, field: str, value: float, least: float, most: float) -> float:
        """A finite number from `least` to `most`."""
        if not math.isfinite(value):
            self.add(field, "must be a finite number")
            return least
        if not least <= value <= most:
            self.add(field, f"must be {_span(least, most)}, not {value:g}")
        return value

    def word(self, field: str, value: str, words: Collection[str], default: str) -> str:
        """One of `words`, in any case and with - for _; "" is the default."""
        folded = value.strip().lower().replace("-", "_")
        if not folded:
            return default
        if folded not in words:
            self.add(field, f"must be one of {', '.join(words)}, not {shown(value)}")
        return folded

    def text(self, field: str, value: str, most: int) -> str:
        """At most so many characters, all of them printable; stripped."""
        stripped = value.strip()
        if len(stripped) > most:
            self.add(field, f"must have at most {most} characters, not {len(stripped)}")
        elif not stripped.isprintable():
            self.add(field, "must be printable text on one line")
        return stripped

    def at_most(self, field: str, what: str, count: int, most: int) -> None:
        """Not too many of something."""
        if count > most:
            self.add(field, f"must have at most {most} {what}, not {count}")


def shown(value: str) -> str:
    """A value as an answer quotes it."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def _span(least: float, most: float) -> str:
    return f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
