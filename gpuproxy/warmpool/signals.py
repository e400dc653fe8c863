"""What one check says about a primary, and when several checks are a verdict. Pure.

A check has two opinions: what the marketplace lists, and whether the machine answers a direct probe. The table MATRIX
says what they mean together; docs/warm-pool.md shows it. A marketplace that does not answer has no opinion, and a
machine that answers is healthy, whatever the marketplace says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from gpuproxy.model.leases import Lease
from gpuproxy.ports import InstanceStatus, ListedInstance
from gpuproxy.reconcile.listings import Listing


class Api(StrEnum):
    """What the marketplace says about a machine."""

    RUNNING = "running"
    BOOTING = "booting"
    ENDED = "ended"  # the container has died, or can't start
    STOPPED = "stopped"
    OFFLINE = "offline"  # the marketplace does not reach the host
    MISSING = "missing"  # a believable listing does not show it
    NO_OPINION = "no opinion"  # no answer, a refusal, an unreadable or old listing, or an unknown status


class Answer(StrEnum):
    """What a direct probe found."""

    ANSWERS = "answers"
    SILENT = "silent"
    NOT_PROBED = "not probed"  # there is no address, or this server was too busy to judge


class Signal(StrEnum):
    """What both say together."""

    HEALTHY = "healthy"
    LOST = "lost"  # counts towards a failover
    RUNS_SILENT = "runs, but does not answer"  # never a failover by itself
    HOST_OFFLINE = "the host is offline"
    STOPPED = "stopped"
    NONE = "no opinion"  # the check does not count


_A, _P, _S = Api, Answer, Signal

MATRIX: Mapping[Api, Mapping[Answer, Signal]] = {
    _A.RUNNING: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.RUNS_SILENT, _P.NOT_PROBED: _S.NONE},
    _A.BOOTING: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.RUNS_SILENT, _P.NOT_PROBED: _S.NONE},
    _A.ENDED: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.LOST, _P.NOT_PROBED: _S.NONE},
    _A.STOPPED: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.STOPPED, _P.NOT_PROBED: _S.NONE},
    _A.OFFLINE: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.HOST_OFFLINE, _P.NOT_PROBED: _S.NONE},
    _A.MISSING: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.LOST, _P.NOT_PROBED: _S.NONE},
    _A.NO_OPINION: {_P.ANSWERS: _S.HEALTHY, _P.SILENT: _S.NONE, _P.NOT_PROBED: _S.NONE},
}

_STATUSES: Mapping[InstanceStatus, Api] = {
    InstanceStatus.RUNNING: Api.RUNNING,
    InstanceStatus.PENDING: Api.BOOTING,
    InstanceStatus.STOPPED: Api.STOPPED,
    InstanceStatus.BROKEN: Api.ENDED,
    InstanceStatus.OFFLINE: Api.OFFLINE,
    InstanceStatus.UNSURE: Api.NO_OPINION,
}


_LISTINGS = 2
"""One look is no verdict."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the checks of one primary have shown so far."""

    signal: Signal = Signal.NONE
    """Of the last check that counts."""
    checks: int = 0
    """How many checks in a row had this signal."""
    since: datetime | None = None
    """When the first of them was made."""
    checked_at: datetime | None = None
    """When the last check was made, whether it counts or not."""
    good_at: datetime | None = None
    """When the machine last answered."""
    listed_at: datetime | None = None
    """When the listing of the last check that counts began."""
    listings: int = 0
    """How many listings in a row had this signal. A large account's listing is the newest for several checks."""

    def is_verdict(self, signal: Signal, failures: int) -> bool:
        """True if so many checks in a row had this signal, and not all of them by a single listing."""
        seen_twice = self.listings >= _LISTINGS or signal is Signal.HEALTHY
        return self.signal is signal and self.checks >= failures and seen_twice


def opinion(lease: Lease, listing: Listing | None, oldest: datetime) -> Api:
    """What a listing says about a machine. One that began before `oldest` says nothing."""
    if listing is None or listing.began_at < oldest:
        return Api.NO_OPINION
    shown = listing.shown(lease)
    if shown is None:
        return Api.NO_OPINION if listing.unreadable else Api.MISSING
    return _api(shown)


def _api(instance: ListedInstance) -> Api:
    return _STATUSES[instance.status]


def after_check(health: Health, api: Api, answer: Answer, now: datetime, listed_at: datetime | None) -> Health:
    """The health after one more check. A check without an opinion changes nothing but its time.

    `listed_at`: when the listing began that `api` is from; None if there is none.
    """
    signal = MATRIX[api][answer]
    good_at = now if answer is Answer.ANSWERS else health.good_at
    if signal is Signal.NONE:
        return replace(health, checked_at=now, good_at=good_at)
    if signal is health.signal:
        listings = health.listings + (listed_at != health.listed_at)
        return replace(
            health, checks=health.checks + 1, checked_at=now, good_at=good_at, listed_at=listed_at, listings=listings
        )
    return Health(signal, 1, now, now, good_at, listed_at, 1)
