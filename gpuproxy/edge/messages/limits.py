"""Spending limits as messages."""

import math
from collections.abc import Sequence
from datetime import datetime

from gpuproxy.edge.messages.times import timestamp
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.model.limits import BudgetExceeded, Over, SpendingLimit, Usage
from gpuproxy.model.money import Micro, micro, usd
from gpuproxy.v1 import gpuproxy_pb2 as pb

_MOST = 1e9


def amount_of(field: str, value: float) -> Micro:
    """An amount in USD of a request. Raises InvalidArgument."""
    found = Violations()
    if not _is_amount(value):
        found.add(field, "must be USD, from 0 to 1,000,000,000")
    found.finish()
    return micro(value)


def limit_of(value: float) -> Micro:
    """The amount of a limit; 0: there is none. Negative for a value that is no amount, or that would be rounded to 0.

    So what else is wrong with the request is found too: SpendingLimits refuses a negative amount.
    """
    amount = micro(value) if _is_amount(value) else Micro(-1)
    return Micro(-1) if value > 0 and not amount else amount


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= _MOST


def window_name(limit: SpendingLimit) -> str:
    """The window as clients see it: limits of the published settings have the names of those."""
    published = limit.name.removeprefix("GUARDRAILS_MAX_").removesuffix("_RATE")
    return published.lower() if limit.name else limit.window.name


def window_message(usage: Usage, next_release_at: datetime | None = None) -> pb.SpendingWindow:
    """A window with what is spent and held in it."""
    limit = usage.limit
    return pb.SpendingWindow(
        window=window_name(limit),
        spent=usd(usage.spent),
        limit=usd(limit.amount),
        remaining=usd(max(0, usage.left)) if limit.amount else 0.0,
        exceeded=bool(limit.amount) and usage.left < 0,
        held=usd(usage.held),
        scope=limit.scope,
        next_release_at=timestamp(next_release_at),
    )


def check_answer(refusals: Sequence[Over]) -> pb.CheckSpendingLimitResponse:
    """Whether an amount is allowed: it is unless a limit refuses it."""
    return pb.CheckSpendingLimitResponse(
        allowed=not refusals,
        reason=BudgetExceeded(refusals[0], done="").message if refusals else "",
        would_exceed=[window_message(each.usage) for each in refusals],
    )


def limit_message(limit: SpendingLimit) -> pb.SpendingLimit:
    """A limit."""
    return pb.SpendingLimit(
        window=window_name(limit),
        limit=usd(limit.amount),
        project=limit.subject if limit.scope == "project" else "",
        key_id=limit.subject if limit.scope == "key" else "",
        policy=limit.policy,
        scope=limit.scope,
        setting=limit.name,
    )
