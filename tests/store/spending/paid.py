"""What a story of random operations knows by itself: its limits, and what each lease has cost."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpuproxy.model.limits import Scope, SpendingLimit, window
from gpuproxy.model.money import Micro, accrued

PROJECTS, KEYS = ("p1", "p2"), ("", "key-1", "key-2")
_PERIODS = ("15m", "1h", "24h", "7d", "month")
_DOLLAR = 1_000_000


class Broken(AssertionError):
    """The rule does not hold."""


@dataclass(slots=True)
class Paid:
    """What the story knows that one lease has cost: running rates with their times, and payments."""

    project: str
    key_id: str
    rates: list[tuple[datetime, datetime | None, int]] = field(default_factory=list)
    payments: list[tuple[datetime, int]] = field(default_factory=list)

    over_at: datetime | None = None
    """When the last of it was paid; None while it goes on."""

    def between(self, since: datetime, until: datetime) -> int:
        if self.over_at is not None and self.over_at < since:
            return 0
        total = sum(
            accrued(rate, max(timedelta(0), min(until, ended or until) - max(since, began)))
            for began, ended, rate in self.rates
        )
        total += sum(amount for at, amount in self.payments if since <= at <= until)
        return max(0, total)


def drawn_limits(chosen: random.Random) -> Iterator[SpendingLimit]:
    """A limit for each period."""
    for number, period in enumerate(_PERIODS):
        scope: Scope = chosen.choice(("global", "project", "key"))
        subject = {"global": "", "project": PROJECTS[number % 2], "key": KEYS[1 + number % 2]}[scope]
        amount = Micro(round(chosen.choice((2.0, 5.0, 20.0, 100.0)) * _DOLLAR))
        yield SpendingLimit(scope=scope, subject=subject, window=window(period), amount=amount, policy="release_newest")
