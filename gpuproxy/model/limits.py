"""Spending limits: windows, scopes, and the money that is held for what is rented. Pure.

A limit allows an amount within a window: any duration that ends now, or the calendar month in UTC. Two sums count
against it. `spent` was paid within the window. `held` is what may still be paid within any window of that length for
what is rented, or may be: the all-in price times the shorter of the lease and the window, less what was paid already,
and the price of the disk that is kept stopped after the lease.
So their sum never rises by itself, and it is checked only when something is rented, started or extended, or when a
price rises. A hold is never shrunk to fit.

Money is micro-dollars, rates are micro-dollars per hour, and times are microseconds since 1970, as they are stored.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.money import Micro, dollars
from gpuproxy.model.reasons import Reason

Scope = Literal["global", "project", "key"]
Policy = Literal["warn", "no_new", "stop_newest", "release_newest"]
"""What a limit does. Only `warn` refuses nothing. The others refuse what would exceed the limit.

When the hold of a machine without an end can't be extended, `no_new` lets it run on, `stop_newest` stops the newest
machines, and `release_newest` releases them.
"""
POLICIES: tuple[Policy, ...] = get_args(Policy)
ALWAYS_SHOWN = ("1h", "24h", "30d")
"""The windows that are shown whether they have a limit or not."""
MONTH = "month"
NEAR = 0.8
"""The part of a limit from which it counts as nearly reached."""

_HOUR = 3_600_000_000
_UNITS = {"m": 60_000_000, "min": 60_000_000, "h": _HOUR, "d": 24 * _HOUR}
_SHORTEST, LONGEST = 5 * _UNITS["m"], 90 * _UNITS["d"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """A period that ends now. `length` is in microseconds; 0: the calendar month."""

    name: str
    length: int

    def span(self, now: int) -> "Span":
        """The part of time that counts now."""
        return Span(now - self.length, None) if self.length else month_of(now)

    def spans(self, now: int, until: int) -> Iterator["Span"]:
        """The part that counts now, and each later month in which something that ends at `until` is paid."""
        span = self.span(now)
        yield span
        while span.end is not None and span.end < until:
            span = month_of(span.end)
            yield span


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` to `end`, which is the end of a month; None: it ends now, and moves with the time."""

    since: int
    end: int | None


def window(text: str) -> Window:
    """The window of a name such as `1h`, `24h`, `30d`, `5min` or `month`. Raises ValueError with the rule."""
    name = text.strip().lower()
    if name == MONTH:
        return Window(name, 0)
    found = re.fullmatch(r"(\d{1,6})(min|m|h|d)", name, re.ASCII)
    length = int(found[1]) * _UNITS[found[2]] if found else 0
    if not _SHORTEST <= length <= LONGEST:
        raise ValueError(f"{text!r} is no window: use a duration from 5m to 90d, such as 1h, 24h or 30d, or {MONTH}")
    return Window(name, length)


def month_of(at: int) -> Span:
    """The calendar month in UTC that has this time."""
    began = (_EPOCH + timedelta(microseconds=at)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ended = (began + timedelta(days=32)).replace(day=1)
    return Span(_micros(began), _micros(ended))


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLimit:
    """The most that may be spent within a window. `subject` is the project or the key; "" for all projects."""

    scope: Scope
    subject: str
    window: Window
    amount: Micro
    policy: Policy
    source: Literal["call", "setting"] = "call"
    name: str = ""
    """The setting that gives the limit; empty for limits of SetSpendingLimit."""

    @property
    def id(self) -> str:
        """Unique: one limit for each scope, window and source."""
        return f"{self.source}/{self.scope}/{self.subject}/{self.window.name}"

    @property
    def whose(self) -> str:
        """Whom it limits, for people."""
        return {"global": "all projects", "project": f"project {self.subject}", "key": f"key {self.subject}"}[
            self.scope
        ]

    @property
    def text(self) -> str:
        """The limit, for people."""
        period = "each calendar month" if not self.window.length else f"{self.window.name}"
        return f"{dollars(self.amount)} in {period} for {self.whose}" + (f" ({self.name})" if self.name else "")

    def covers(self, project: str, key_id: str) -> bool:
        """True if what this project rents with this key counts."""
        return self.scope == "global" or self.subject == (project if self.scope == "project" else key_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The money that is held for one lease, from the commit of its intent until its end is proven."""

    lease_id: str
    project: str
    key_id: str
    gpus: int
    """The GPUs that it uses; 0 while it is stopped."""
    rate: int
    """All-in price from now on."""
    peak: int
    """The highest rate so far."""
    since: int
    """The first time for which it may be paid."""
    until: int
    """The last time for which it may be paid without another admission."""
    paid_until: int | None = None
    """Up to here everything is paid; None: up to now, because a meter runs.

    It is `since` while nobody knows whether the machine exists. So an unknown outcome keeps its whole hold.
    """
    booked: int = 0
    """The amount of a booking that may have been paid."""
    extra: int = 0
    """An amount beside the rate: a pool's next failover."""
    lead: int = 0
    """How long before its use time is paid, at most: microseconds."""
    kept_rate: int = 0
    """The price of the disk of a machine that is kept stopped after its end."""
    kept_until: int = 0
    """When such a machine is destroyed; 0 if its end destroys it."""

    @property
    def admitted(self) -> bool:
        """False for the hold of something that nobody asked for, such as a surplus machine."""
        return self.until > self.since

    def begin(self, now: int) -> int:
        """Since when it is not paid yet."""
        return now if self.paid_until is None else self.paid_until

    def future(self, since: int, until: int) -> int:
        """What it may still cost within a period: its price up to its end, and then its disk."""
        disk_since = max(since, self.until)
        return cost(self.rate, min(self.until, until) - since) + cost(
            self.kept_rate, min(self.kept_until, until) - disk_since
        )

    def at_end(self, since: int, end: int, now: int) -> int:
        """What it still costs until `end`, and will count in a window then that begins at `since`."""
        return self.future(max(self.begin(now), since), end + self.lead)


Past = Callable[[str, int], int]
"""What was paid for a lease since a time, in micro-dollars."""


def cost(rate: int, duration: int) -> int:
    """The price of a duration in microseconds, rounded up."""
    return -(-rate * duration // _HOUR) if duration > 0 else 0


def held(hold: Hold, limit: Window, span: Span, now: int, past: Past) -> int:
    """What is held for a lease in a span of a window."""
    if span.end is not None:
        return _held_in_month(hold, span, now)
    future = hold.future(hold.begin(now), max(hold.until, hold.kept_until))
    most = cost(hold.peak, limit.length + hold.lead)
    paid_at_most = cost(hold.peak, min(now - hold.since, limit.length) + hold.lead)
    if future + hold.booked + paid_at_most > most:  # only then can the window be shorter than what is left
        future = min(future, max(0, most - hold.booked - past(hold.lease_id, span.since)))
    return hold.extra + hold.booked + future


def _held_in_month(hold: Hold, month: Span, now: int) -> int:
    ends = (month.end or 0) + hold.lead
    later = month.since > now
    future = hold.future(max(hold.begin(now), month.since), ends)
    return future if later else hold.extra + hold.booked + future


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What counts against a limit now."""

    limit: SpendingLimit
    spent: int
    held: int

    @property
    def left(self) -> int:
        """What may still be spent; negative if too much is."""
        return self.limit.amount - self.spent - self.held

    @property
    def near(self) -> bool:
        """True from 80 % of the limit on."""
        return self.spent + self.held >= NEAR * self.limit.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Over:
    """A limit that something would exceed, and by what: `asked` beside what is spent and held."""

    usage: Usage
    asked: int
    span: Span | None = None
    """The part of time in which it would be exceeded, for example a later month. None: the part that counts now."""
    missing_later: int | None = None
    """For a machine that has run for a whole window and is to go on: what will be missing at the end of that time."""

    @property
    def limit(self) -> SpendingLimit:
        """The limit."""
        return self.usage.limit

    @property
    def short(self) -> int:
        """What is missing."""
        return self.asked - self.usage.left if self.missing_later is None else self.missing_later


def exceeded(
    limit: SpendingLimit, span: Span, now: int, *, spent: Callable[[int], int], holds: "Holds", past: Past
) -> Over | None:
    """The limit, if these holds would exceed it. `spent(since)`: what was paid since a time.

    What asks for nothing more is never refused, but one thing: what has run for a whole sliding window and is to go on.
    That is refused if the limit would still be exceeded at the end of that time.
    """
    before = holds.sum(holds.before, limit, span, now, past)
    after = holds.sum(holds.after, limit, span, now, past)
    goes_on = after <= before and limit.window.length > 0 and holds.go_on
    if after <= before and not goes_on:
        return None
    paid = spent(span.since) if span.since <= now else 0
    others = holds.doubtful + holds.sum(holds.others, limit, span, now, past)
    if paid + others + after <= limit.amount:
        return None
    usage = Usage(limit=limit, spent=paid, held=others + before)
    if not goes_on:
        return Over(usage=usage, asked=after - before, span=span)
    missing = holds.at_end(limit, now, spent) - limit.amount
    if missing <= len(holds.others) + len(holds.after):  # each part of an hour is rounded by less than a micro-dollar
        return None
    return Over(usage=usage, asked=holds.longer(now), span=span, missing_later=missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """The holds that count: those that stay as they are, and those that change."""

    others: Sequence[Hold]
    before: Sequence[Hold]
    after: Sequence[Hold]
    doubtful: int = 0
    """What may have been paid, and nobody will ever know."""
    prolongs: bool = False
    """The change is that something goes on for longer."""

    @property
    def go_on(self) -> bool:
        """True if what costs money is to run for longer."""
        until = {hold.lease_id: hold.until for hold in self.before}
        return self.prolongs and any(h.rate > 0 and h.until > until.get(h.lease_id, h.until) for h in self.after)

    def longer(self, now: int) -> int:
        """The price of the time by which the holds that change are prolonged."""
        return sum(h.future(now, h.until) for h in self.after) - sum(h.future(now, h.until) for h in self.before)

    def at_end(self, limit: SpendingLimit, now: int, spent: Callable[[int], int]) -> int:
        """What will count against a sliding limit at the end of the longest hold that changes.

        By then, a part of what is spent now has left the window.
        """
        end = max(hold.until for hold in self.after)
        since = end - limit.window.length
        covered = (h for h in (*self.others, *self.after) if limit.covers(h.project, h.key_id))
        then = sum(h.extra + h.booked + h.at_end(since, end, now) for h in covered)
        return (spent(since) if since < now else 0) + self.doubtful + then

    @staticmethod
    def sum(holds: Sequence[Hold], limit: SpendingLimit, span: Span, now: int, past: Past) -> int:
        """What these holds hold against a limit."""
        return sum(held(h, limit.window, span, now, past) for h in holds if limit.covers(h.project, h.key_id))


class BudgetExceeded(FailedPrecondition):
    """Something would exceed a spending limit. Nothing was changed."""

    reason = Reason.BUDGET_EXCEEDED

    def __init__(self, over: Over, *, done: str = "Nothing was rented. ") -> None:
        usage, limit = over.usage, over.limit
        super().__init__(
            f"The spending limit of {limit.text} does not allow it: {dollars(usage.spent)} is spent and "
            f"{dollars(usage.held)} is held for what is rented; this needs {dollars(over.asked)} more and "
            f"{dollars(max(0, usage.left))} is left. {done}Release machines, wait until older spending leaves "
            "the window, or ask an admin for a higher limit.",
            metadata={
                "window": limit.window.name,
                "scope": limit.scope,
                "subject": limit.subject,
                "limit": _usd(limit.amount),
                "spent": _usd(usage.spent),
                "held": _usd(usage.held),
                "asked": _usd(over.asked),
            },
        )
        self.over = over


def _usd(amount: int) -> str:
    return f"{amount / 1_000_000:.6f}"


def without_price(project: str) -> FailedPrecondition:
    """The error for something whose price is not known, while a limit applies."""
    return FailedPrecondition(
        f"The marketplace tells no price for it, and project {project} has a spending limit. Nothing was rented, "
        "because nobody could say what it costs.",
        reason=Reason.BUDGET_EXCEEDED,
        metadata={"asked": "unknown"},
    )


def raised(hold: Hold, *, rate: int | None = None, until: int | None = None, extra: int | None = None) -> Hold:
    """The hold with a new rate, end or extra amount. The end never moves back."""
    new_rate = hold.rate if rate is None else rate
    return replace(
        hold,
        rate=new_rate,
        peak=max(hold.peak, new_rate),
        until=max(hold.until, hold.until if until is None else until),
        extra=hold.extra if extra is None else extra,
    )
