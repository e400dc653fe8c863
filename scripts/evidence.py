"""The evidence that `chaos` and `soak` check: the market's own list of its machines, and the server's log."""

import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.system.processes import Market

_LOUD = re.compile(r"\[(?:warning|error|critical)\s*\]\s*(\S+)")
_SILENCE = re.compile(r"\] (provider_silent|provider_answered) .*\baccount=(\S+)")


def until(market: Market, condition: Callable[[], bool], limit: float, *, pause: float = 0.05) -> float | None:
    """The market's seconds until `condition` holds; None after `limit` of them. `pause` is in real seconds."""
    began = market.state()["now"]
    while not condition():
        if market.state()["now"] - began > limit:
            return None
        time.sleep(pause)
    return float(market.state()["now"] - began)


def twins(state: dict[str, Any]) -> list[str]:
    """Labels that more than one machine ever had."""
    labels = Counter(_plain(one["label"]) for one in state["instances"])
    return sorted(label for label, count in labels.items() if count > 1)


def account(state: dict[str, Any]) -> str:
    """A summary of the market: machines created, destroyed and left, labels, and calls."""
    instances = state["instances"]
    destroyed = sum(one["destroyed_at"] is not None for one in instances)
    labels = len({_plain(one["label"]) for one in instances})
    calls = ", ".join(f"{name} {count}" for name, count in sorted(state["calls"].get("vast.ai", {}).items()))
    left = len(instances) - destroyed
    return f"{len(instances)} created, {destroyed} destroyed, {left} left; {labels} labels; calls: {calls}"


def _plain(label: str | None) -> str:
    """A label without the end that it may carry."""
    return str(label).partition(".")[0]


def loud(log: str) -> dict[str, int]:
    """The number of log lines by event, of level warning or above."""
    return dict(Counter(_LOUD.findall(log)))


def unexpected(log: str) -> dict[str, int]:
    """Like `loud`, for runs in which listings fail on purpose.

    A `provider_silent` counts only if no `provider_answered` of the same account follows it.
    """
    silent: Counter[str] = Counter()
    for line in log.splitlines():
        if (found := _SILENCE.search(line)) is not None:
            event, account_name = found.groups()
            silent[account_name] = silent[account_name] + 1 if event == "provider_silent" else 0
    counted = loud(log) | {"provider_silent": silent.total()}
    return {event: count for event, count in counted.items() if count}
