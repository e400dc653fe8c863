"""What a measurement says: a line of the table, judged against its target where it has one."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from operator import ge, le


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. `at_least` or `at_most` is its target; with neither it is for information."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def missed(self) -> bool:
        """True when there is a target and it is not reached."""
        return not all(
            holds(self.value, bound) for holds, bound in ((ge, self.at_least), (le, self.at_most)) if bound is not None
        )

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """As the table shows it."""
        target = ""
        if self.at_least is not None:
            target = f">= {self.at_least:g} {self.unit}"
        if self.at_most is not None:
            target = f"<= {self.at_most:g} {self.unit}"
        verdict = ("MISSED" if self.missed else "ok") if target else ""
        return self.name, f"{_shown(self.value)} {self.unit}", target, verdict, self.note


def table(rows: Sequence[Row]) -> str:
    """A Markdown table, aligned for a terminal too."""
    lines = [("what", "measured", "target", "", "remarks"), *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
             for line in lines]  # fmt: skip
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _shown(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
