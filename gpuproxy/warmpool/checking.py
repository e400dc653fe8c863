"""The check of one primary: what its account's listing says, whether it answers, and whether we could know at all.

The checks of pools are spread over the interval, so each sees the newest answers of the others. Where several hosts
are silent at once, the fault may be our own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog

from gpuproxy.model.leases import Lease
from gpuproxy.model.offers import HostKey
from gpuproxy.model.pools import Pool, PoolId
from gpuproxy.ports import Clock, Probe
from gpuproxy.reconcile.listings import Listing
from gpuproxy.runtime.lateness import Lateness
from gpuproxy.warmpool.health_urls import health_port, missing_port
from gpuproxy.warmpool.limits import PoolLimits
from gpuproxy.warmpool.signals import Answer, Api, Health, after_check, opinion

log = structlog.get_logger(__name__)

_SHOULD_ANSWER = frozenset({Api.RUNNING, Api.BOOTING, Api.NO_OPINION})
"""What the marketplace says of machines whose silence it does not explain."""
_OF_OTHERS = 1.5
"""Intervals within which the answers of other pools count: each has been checked at least once."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """The last answer of a pool's primary."""

    at: float
    host: HostKey
    answers: bool
    unexplained: bool
    """It is silent, and the marketplace does not say why."""


class Checks:
    """Checks the primaries of all pools."""

    def __init__(self, *, clock: Clock, probe: Probe, limits: PoolLimits, lateness: Lateness) -> None:
        self._clock = clock
        self._probe = probe
        self._limits = limits
        self._lateness = lateness
        self._heard: dict[PoolId, _Heard] = {}
        self._suspected_since: datetime | None = None
        """Since when our own network seems to be cut, so that no failed probe counts; None: it does not."""

    async def check(
        self, pool: Pool, primary: Lease, health: Health, listing: Callable[[], Listing | None], age: timedelta
    ) -> Health:
        """Probe a primary, and hear what the last listing of its account says then. An older one says nothing."""
        answer = await self._answer(pool, primary)
        now, listed = self._clock.now(), listing()
        api = opinion(primary, listed, now - age)
        unexplained = answer is Answer.SILENT and api in _SHOULD_ANSWER
        self._heard[pool.id] = _Heard(self._clock.monotonic(), pool.host, answer is Answer.ANSWERS, unexplained)
        if answer is Answer.ANSWERS:
            self._suspected_since = None
        elif answer is Answer.SILENT and self._is_our_fault(now):
            answer = Answer.NOT_PROBED
        return after_check(health, api, answer, now, None if listed is None else listed.began_at)

    def forget(self, pool_id: PoolId) -> None:
        """The pool is not checked any more."""
        self._heard.pop(pool_id, None)

    async def _answer(self, pool: Pool, primary: Lease) -> Answer:
        """Whether the primary answers. One that has no port for the health URL is asked as if there were no URL."""
        health, timeout, seen = pool.spec.health, self._limits.probe_timeout, primary.observed
        port = health_port(health)
        if port is not None and missing_port(pool.spec, primary) is None:
            at = next((each for each in seen.ports if each.container_port == port), None)
            if at is None:
                return Answer.NOT_PROBED
            url = urlsplit(health)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            good = await self._probe.reachable("http", at.host, at.public_port, timeout, path=path)
        elif seen.ssh_port and health != "tcp":
            good = await self._probe.reachable("ssh", seen.ssh_host, seen.ssh_port, timeout)
        elif seen.ports or seen.ssh_port:
            at = seen.ports[0] if seen.ports else None
            host, port = (at.host, at.public_port) if at else (seen.ssh_host, seen.ssh_port)
            good = await self._probe.reachable("tcp", host, port, timeout)
        else:
            return Answer.NOT_PROBED
        return Answer.ANSWERS if good else Answer.SILENT

    def _is_our_fault(self, now: datetime) -> bool:
        """Whether our own fault may explain a silence: a late event loop, or a cut network."""
        if self._lateness.within(self._limits.check_seconds) > self._limits.check_seconds / 2:
            return True
        since = self._clock.monotonic() - _OF_OTHERS * self._limits.check_seconds
        return self._is_cut_off([each for each in self._heard.values() if each.at >= since], now)

    def _is_cut_off(self, heard: Iterable[_Heard], now: datetime) -> bool:
        """Whether our own network seems to be cut: several hosts are silent for no other reason, and none answers.

        After a while the silence counts, because several primaries may be unreachable at once.
        """
        silent = {each.host for each in heard if each.unexplained}
        if len(silent) < 2 or any(each.answers for each in heard):
            self._suspected_since = None
            return False
        if self._suspected_since is None:
            log.warning("own_network_suspected_by_pools", hosts=len(silent), effect="no failover begins meanwhile")
            self._suspected_since = now
        return now - self._suspected_since < timedelta(seconds=self._limits.unreachable_seconds)
