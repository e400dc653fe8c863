"""vast.ai's rate limits: a minimum interval for each endpoint and account, on the market's clock.

A refused call isn't counted. The market's clock may run much faster than real time, so a little real jitter is
tolerated: without this, clients that keep exactly to the limit would be refused at scale 60.
"""

from collections import defaultdict, deque
from typing import NamedTuple

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.vast.errors import too_frequent

_JITTER = 0.02  # real seconds
_MAX_TOLERANCE = 0.25  # of an interval


class RateLimit(NamedTuple):
    """At most `calls` calls in `seconds` seconds. `form` is the form of the refusal."""

    endpoint: str
    calls: int
    seconds: float
    form: str


_MANAGE = RateLimit("manage", 1, 1.0, "detail")
_CREATE = RateLimit("create", 1, 4.5, "text")
LIMITS = {
    "search": RateLimit("search", 10, 60.0, "text"),
    "create": _CREATE,
    "create_many": _CREATE,
    "launch": RateLimit("launch", 1, 5.0, "detail"),
    "get": RateLimit("get", 1, 2.0, "detail"),
    "list": RateLimit("list", 1, 1.0, "detail"),
    "start": _MANAGE,
    "stop": _MANAGE,
    "label": _MANAGE,
    "ssh_key": RateLimit("ssh_key", 1, 1.0, "detail"),
    "destroy": RateLimit("destroy", 1, 3.0, "json"),
    "charges": RateLimit("charges", 1, 1.0, "detail"),
    "reboot": RateLimit("reboot", 1, 1.0, "detail"),
    "recycle": RateLimit("recycle", 1, 1.0, "detail"),
    "price": RateLimit("price", 1, 5.5, "detail"),
    "volume_search": RateLimit("volume_search", 1, 5.5, "detail"),
    "volume_create": RateLimit("volume_create", 1, 5.5, "detail"),
    "volume_clone": RateLimit("volume_create", 1, 5.5, "detail"),
    "volume_list": RateLimit("volume_list", 1, 5.5, "detail"),
    "volume_delete": RateLimit("volume_delete", 1, 5.5, "detail"),
}


class RateLimits:
    """The recent calls of all accounts, and the limits on them."""

    def __init__(self, *, enforced: bool, scale: float) -> None:
        """`scale` is the number of market seconds in a real second."""
        self._enforced = enforced
        self._jitter = _JITTER * scale
        self._recent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)

    def refusal(self, identity: str, call: str, now: float) -> HttpResponse | None:
        """The answer to a call that comes too early. None if the call is allowed; then it is counted."""
        limit = LIMITS.get(call)
        if limit is None or not self._enforced:
            return None
        recent = self._recent[identity, limit.endpoint]
        tolerance = min(self._jitter, limit.seconds * _MAX_TOLERANCE)
        while recent and now - recent[0] >= limit.seconds - tolerance:
            recent.popleft()
        if len(recent) >= limit.calls:
            return too_frequent(limit.seconds if limit.calls == 1 else None, limit.form)
        recent.append(now)
        return None
