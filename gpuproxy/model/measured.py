"""Measurements of a host: how quickly its machines become ready, and how often they don't.

Pure functions compute the next record from a record, an outcome and its time. Therefore replaying the events gives the
stored records.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import exp

from gpuproxy.model.leases import LeaseEvent
from gpuproxy.model.offers import ProviderName
from gpuproxy.model.reasons import Reason

_BLAMED = frozenset({Reason.HOST_REFUSED, Reason.NOT_READY, Reason.WRONG_GPU, Reason.HOST_BROKEN})
_TAU_S = 3600.0
_FRESH = timedelta(hours=24)
_FAILED_MS = 600_000
"""The minimum time that counts for a machine that never became ready, in milliseconds."""
_FAILURES = 3
_OUT = timedelta(seconds=30)
_OUT_MOST = timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The record of one host. `response_ms` is a peak EWMA: it rises at once and falls within hours."""

    provider: ProviderName
    gpu_model: str
    response_ms: float = 0.0
    sampled_at: datetime | None = None
    samples: int = 0
    failures: int = 0
    """The number of consecutive failures."""
    ejections: int = 0
    """The multiplier of the next ejection's length, minus one."""
    ejected_until: datetime | None = None

    def fresh(self, now: datetime) -> int:
        """The number of samples; 0 if the last one is older than 24 hours."""
        return self.samples if self.sampled_at is not None and now - self.sampled_at < _FRESH else 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A machine became ready, or its host failed. `ms` is the time since the create; None if it isn't meaningful."""

    ready: bool
    ms: float | None


def outcome(began: datetime | None, was_ready: bool, event: LeaseEvent, reason: Reason, at: datetime) -> Outcome | None:
    """The outcome for the host of an event; None if the event says nothing about the host.

    `began` is the time when the create was sent. Refusals because of capacity, price or credit say nothing about the
    host, nor do stops and starts of a machine.
    """
    ms = None if began is None or was_ready else (at - began) / timedelta(milliseconds=1)
    if event is LeaseEvent.READY:
        return None if was_ready else Outcome(True, ms)
    if event is LeaseEvent.VANISHED or (reason in _BLAMED and event in (LeaseEvent.REFUSED, LeaseEvent.RELEASE)):
        return Outcome(False, None if ms is None else max(ms, _FAILED_MS))
    return None


def after_outcome(before: Measured, outcome: Outcome, at: datetime) -> Measured:
    """The record after one more outcome."""
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
    """The record after one more sample, by a peak EWMA over irregular intervals.

    A slower sample replaces the average; a faster one is weighted by the elapsed time.
    """
    if not before.fresh(at) or before.sampled_at is None:
        return replace(before, response_ms=ms, sampled_at=at, samples=1)
    passed = max(0.0, (at - before.sampled_at).total_seconds())
    kept = exp(-passed / tau_s)
    value = ms if ms > before.response_ms * kept else before.response_ms + (1 - kept) * (ms - before.response_ms)
    return replace(before, response_ms=value, sampled_at=max(at, before.sampled_at), samples=before.samples + 1)
