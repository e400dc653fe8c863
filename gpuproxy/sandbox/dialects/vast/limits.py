"""vast.ai's rate limits: a minimum interval for each endpoint and account, on the market's clock.

A call that is turned away does not count. The clock may run much faster than the sockets do, so a little real jitter
is forgiven: without that, clients that keep exactly to the limit would be turned away at scale 60.
"""

from collections import defaultdict, deque
from typing import NamedTuple

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast.errors import too_frequent

_JITTER = 0.02  # real seconds
_MOST_FORGIVEN = 0.25  # of an interval


class Limit(NamedTuple):
    """So many calls in so many seconds; `form` is how a refusal looks."""

    endpoint: str
    calls: int
    seconds: float
    form: str


_MANAGE = Limit("manage", 1, 1.0, "detail")
_CREATE = Limit("create", 1, 4.5, "text")
LIMITS = {
    "search": Limit("search", 10, 60.0, "text"),
    "create": _CREATE,
    "create_many": _CREATE,
    "launch": Limit("launch", 1, 5.0, "detail"),
    "get": Limit("get", 1, 2.0, "detail"),
    "list": Limit("list", 1, 1.0, "detail"),
    "start": _MANAGE,
    "stop": _MANAGE,
    "label": _MANAGE,
    "destroy": Limit("destroy", 1, 3.0, "json"),
    "charges": Limit("charges", 1, 1.0, "detail"),
    "reboot": Limit("reboot", 1, 1.0, "detail"),
    "recycle": Limit("recycle", 1, 1.0, "detail"),
    "price": Limit("price", 1, 5.5, "detail"),
    "volume_search": Limit("volume_search", 1, 5.5, "detail"),
    "volume_create": Limit("volume_create", 1, 5.5, "detail"),
    "volume_clone": Limit("volume_create", 1, 5.5, "detail"),
    "volume_list": Limit("volume_list", 1, 5.5, "detail"),
    "volume_delete": Limit("volume_delete", 1, 5.5, "detail"),
}


class Limits:
    """Who called what when."""

    def __init__(self, *, enforced: bool, scale: float) -> None:
        """`scale` is how many of the market's seconds pass in a real one."""
        self._enforced = enforced
        self._jitter = _JITTER * scale
        self._recent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)

    def refusal(self, identity: str, call: str, now: float) -> HttpResponse | None:
        """The answer to a call that comes too early; None lets it through and counts it."""
        limit = LIMITS.get(call)
        if limit is None or not self._enforced:
            return None
        recent = self._recent[identity, limit.endpoint]
        forgiven = min(self._jitter, limit.seconds * _MOST_FORGIVEN)
        while recent and now - recent[0] >= limit.seconds - forgiven:
            recent.popleft()
        if len(recent) >= limit.calls:
            return too_frequent(limit.seconds if limit.calls == 1 else None, limit.form)
        recent.append(now)
        return None
