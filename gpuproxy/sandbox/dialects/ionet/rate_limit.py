"""io.net's rate limit: 300 calls in a minute for each key, on the market's clock. A refused call isn't counted."""

from collections import defaultdict, deque

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.dialects.ionet.errors import RetryForm, too_many

CALLS, SECONDS = 300, 60.0
_JITTER = 0.02  # real seconds that are tolerated
_MAX_TOLERANCE = 0.25  # of the interval


class RateLimit:
    """The calls of all keys within the last minute."""

    def __init__(self, *, enforced: bool, form: RetryForm = "seconds", scale: float = 1.0) -> None:
        """`form` is that of Retry-After; `scale` is the number of market seconds in a real second."""
        self._enforced = enforced
        self._form: RetryForm = form
        self._seconds = SECONDS - min(_JITTER * scale, SECONDS * _MAX_TOLERANCE)
        self._recent: defaultdict[str, deque[float]] = defaultdict(deque)

    def refusal(self, key: str, now: float) -> HttpResponse | None:
        """The answer to a call that is too much. None if the call is allowed; then it is counted."""
        if not self._enforced:
            return None
        recent = self._recent[key]
        while recent and now - recent[0] >= self._seconds:
            recent.popleft()
        if len(recent) >= CALLS:
            return too_many(self._form, recent[0] + SECONDS - now, now)
        recent.append(now)
        return None
