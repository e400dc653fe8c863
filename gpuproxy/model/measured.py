"""How quickly a host's machines get ready and how often they do not, as a value that each outcome moves.

Pure: from a value, an outcome and its time to the next value, so that replaying the books gives what is stored.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import exp

from gpuproxy.model.leases import LeaseEvent
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reservations import HOST_BROKEN, NOT_READY, WRONG_GPU

HOST_REFUSED = "HOST_REFUSED"
"""Why a create failed when the host is to blame."""
_BLAMED = frozenset({HOST_REFUSED, NOT_READY, WRONG_GPU, HOST_BROKEN})
_TAU_S = 3600.0
_FRESH = timedelta(hours=24)
_FAILED_MS = 600_000
"""What a machine that never got ready counts as, at least."""
_FAILURES = 3
_OUT = timedelta(seconds=30)
_OUT_MOST = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One host's record. `response_ms` is a peak EWMA: it jumps up at once and comes down within hours."""

    provider: ProviderName
    gpu_model: str
    response_ms: float = 0.0
    sampled_at: datetime | None = None
    samples: int = 0
    failures: int = 0
    """In a row."""
    ejections: int = 0
    """What the next ejection's length is multiplied by, less one."""
    ejected_until: datetime | None = None

    def fresh(self, now: datetime) -> int:
        """The samples, as long as the last one is not too old."""
        return self.samples if self.sampled_at is not None and now - self.sampled_at < _FRESH else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A machine got ready, or its host failed it; `ms` from the create, None where that says nothing."""

    ready: bool
    ms: float | None


def outcome(began: datetime | None, was_ready: bool, event: LeaseEvent, reason: str, at: datetime) -> Outcome | None:
    """What an event tells about a lease's host; `began`: when its create was sent.

    Refusals for want of capacity, price or credit tell nothing, nor do machines that stop and wake.
    """
    ms = None if began is None or was_ready else (at - began) / timedelta(milliseconds=1)
    if event is LeaseEvent.READY:
        return None if was_ready else Outcome(True, ms)
    if event is LeaseEvent.VANISHED or (reason in _BLAMED and event in (LeaseEvent.REFUSED, LeaseEvent.RELEASE)):
        return Outcome(False, None if ms is None else max(ms, _FAILED_MS))
    return None


def after_outcome(before: Measured, outcome: Outcome, at: datetime) -> Measured:
    """The record with one more outcome."""
    sampled = before if outcome.ms is None else with_sample(before, outcome.ms, at)
    if outcome.ready:
        return replace(sampled, failures=0, ejections=before.ejections // 2)
    failures = before.failures + 1
    out_already = before.ejected_until is not None and at < before.ejected_until
    if failures < _FAILURES or out_already:
        return replace(sampled, failures=failures)
    times = before.ejections + 1
    return replace(sampled, failures=failures, ejections=times, ejected_until=at + min(_OUT * times, _OUT_MOST))


def with_sample(before: Measured, ms: float, at: datetime, tau_s: float = _TAU_S) -> Measured:
    """Peak EWMA over irregular intervals: a worse sample counts whole, a better one by the time that has passed."""
    if not before.fresh(at) or before.sampled_at is None:
        return replace(before, response_ms=ms, sampled_at=at, samples=1)
    passed = max(0.0, (at - before.sampled_at).total_seconds())
    kept = exp(-passed / tau_s)
    value = ms if ms > before.response_ms * kept else before.response_ms + (1 - kept) * (ms - before.response_ms)
    return replace(before, response_ms=value, sampled_at=max(at, before.sampled_at), samples=before.samples + 1)
