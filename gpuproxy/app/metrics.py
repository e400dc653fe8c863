"""The metrics of one server, under their Prometheus names. The registry belongs to the server; nothing is global.

Events are counted when they happen. What the database knows is read for each scrape. Label values come from the server
(calls, codes, providers, account names), never from clients.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import inf
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpuproxy.app.figures import Figures
from gpuproxy.health.checkup import Kind
from gpuproxy.health.readiness import OK
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import ProviderError, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.limits import Usage
from gpuproxy.model.money import Micro, usd
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import (
    Clock,
    Inventory,
    ListedInstance,
    Provider,
    Receipt,
    Spend,
    VolumeInventory,
    VolumeOffer,
)
from gpuproxy.webhooks.sending import Result

_RPC_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 30, 120, 600)
_CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_MOST_LIMITS = 30
"""Scopes and windows of limits that are shown: the fullest ones."""
_LAG_BUCKETS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 1)


Begin = Callable[[Provider, str], Callable[[str], None]]
"""Called at the start of each marketplace call. It returns a function that is called with the outcome."""


class Metrics:
    """The counters and histograms of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._rpcs = Counter("gpuproxy_rpcs", "Calls answered.", ["rpc", "code"], registry=registry)
        self._rpc_seconds = Histogram(
            "gpuproxy_rpc_seconds", "Time to an answer.", ["rpc"], registry=registry, buckets=_RPC_BUCKETS
        )
        self._known: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._calls = Counter(
            "gpuproxy_provider_calls",
            "Calls to marketplaces; outcome is ok, cancelled or the reason of the error.",
            ["provider", "account", "call", "outcome"],
            registry=registry,
        )
        self._call_seconds = Histogram(
            "gpuproxy_provider_call_seconds",
            "Duration of a marketplace call, including the wait for the rate limit.",
            ["provider", "call"],
            registry=registry,
            buckets=_CALL_BUCKETS,
        )
        self._lag = Histogram(
            "gpuproxy_loop_lag_seconds", "How late the event loop is.", registry=registry, buckets=_LAG_BUCKETS
        )

        self._webhooks = Counter(
            "gpuproxy_webhook_results",
            "What came of the events of a webhook: tries that were delivered or failed, and events that were given up.",
            ["target", "result"],
            registry=registry,
        )

    def rpc(self, name: str, code: str, seconds: float) -> None:
        """Count an answered call. `seconds` are real."""
        known = self._known.get((name, code))
        if known is None:
            known = self._known[name, code] = self._rpcs.labels(name, code), self._rpc_seconds.labels(name)
        answered, took = known
        answered.inc()
        took.observe(seconds)

    def provider_call(self, provider: Provider, call: str, outcome: str, seconds: float) -> None:
        """Count a marketplace call. `seconds` are real."""
        self._calls.labels(provider.name, provider.account, call, outcome).inc()
        self._call_seconds.labels(provider.name, call).observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """Record by how many real seconds the event loop was late."""
        self._lag.observe(seconds)

    def expect_webhooks(self, targets: Iterable[str]) -> None:
        """Show zeros for these webhooks from the start, so that the first failure is seen as an increase."""
        for target in targets:
            for result in get_args(Result):
                self._webhooks.labels(target, result)

    def webhook(self, target: str, result: Result, events: int) -> None:
        """Count what came of events of a webhook."""
        self._webhooks.labels(target, result).inc(events)

    def render(
        self,
        figures: Figures,
        *,
        problems: Mapping[Kind, int] | None = None,
        checks: Mapping[str, str] | None = None,
        usages: Sequence[Usage] = (),
    ) -> bytes:
        """The metrics and `figures` in the text format of Prometheus.

        `problems`: the number of doctor's findings, by kind. `checks`: the results of the readiness checks, by name.
        `usages`: of all spending limits.
        """
        gauges = _gauges(figures)
        _add_webhooks(gauges, figures)
        _add_limits(gauges, usages)
        _add_health(gauges, problems or {}, checks or {})
        return generate_latest(self._registry) + generate_latest(gauges)


class Counted:
    """Wraps a Provider and counts its calls."""

    def __init__(self, provider: Provider, metrics: Metrics, clock: Clock, begin: Begin | None = None) -> None:
        self.name = provider.name
        self.account = provider.account
        self.capabilities = provider.capabilities
        self._provider = provider
        self._metrics = metrics
        self._clock = clock
        self._begin = begin

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """As the provider's. It makes no call and is not counted."""
        return self._provider.check_launch(spec)

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """As the provider's. It counts as one call, however many pages it has."""
        with self._counted("search"):
            pages = self._provider.search(wanted)
            try:
                async for page in pages:
                    yield page
            finally:
                if isinstance(pages, AsyncGenerator):
                    await pages.aclose()

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """As the provider's."""
        with self._counted("create"):
            return await self._provider.create(offer, spec, label)

    async def list(self) -> Inventory:
        """As the provider's."""
        with self._counted("list"):
            return await self._provider.list()

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """As the provider's."""
        with self._counted("get"):
            return await self._provider.get(instance_id)

    async def destroy(self, instance_id: InstanceId) -> bool:
        """As the provider's."""
        with self._counted("destroy"):
            return await self._provider.destroy(instance_id)

    async def start(self, instance_id: InstanceId) -> None:
        """As the provider's."""
        with self._counted("start"):
            await self._provider.start(instance_id)

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """Counts a change of a label."""
        with self._counted("label"):
            await self._provider.relabel(instance_id, label)

    async def stop(self, instance_id: InstanceId) -> None:
        """As the provider's."""
        with self._counted("stop"):
            await self._provider.stop(instance_id)

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """As the provider's."""
        with self._counted("extend"):
            await self._provider.extend(instance_id, hours)

    async def used(self, instance_id: InstanceId) -> timedelta | None:
        """As the provider's."""
        with self._counted("get"):
            return await self._provider.used(instance_id)

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """As the provider's."""
        with self._counted("logs"):
            return await self._provider.logs(instance_id, lines)

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """As the provider's."""
        with self._counted("ssh_key"):
            await self._provider.add_ssh_key(instance_id, public_key)

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """As the provider's."""
        with self._counted("charges"):
            return await self._provider.charges(since, until)

    async def spend(self) -> Spend:
        """As the provider's."""
        with self._counted("spend"):
            return await self._provider.spend()

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """As the provider's."""
        with self._counted("volume_search"):
            return await self._provider.volume_offers(machine_ids, size_gb)

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """As the provider's."""
        with self._counted("volume_create"):
            return await self._provider.create_volume(offer, size_gb, label)

    async def list_volumes(self) -> VolumeInventory:
        """As the provider's."""
        with self._counted("volume_list"):
            return await self._provider.list_volumes()

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """As the provider's."""
        with self._counted("volume_delete"):
            return await self._provider.delete_volume(volume_id)

    @contextmanager
    def _counted(self, call: str) -> Iterator[None]:
        began, outcome = self._clock.monotonic(), "ok"
        ended = self._begin(self, call) if self._begin is not None else None
        try:
            yield
        except ProviderError as error:
            outcome = error.reason
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            seconds = (self._clock.monotonic() - began) / self._clock.scale
            self._metrics.provider_call(self, call, outcome, seconds)
            if ended is not None:
                ended(outcome)


def _gauges(figures: Figures) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"gpuproxy_{name}", text, labels, registry=registry)

    leases = gauge("leases", "Leases ever created, by their present state.", "provider", "state")
    for (provider, state), count in figures.leases.items():
        leases.labels(provider, state).set(count)
    unknown = gauge("unknown_outcomes", "Creates whose outcome is unknown.", "provider")
    oldest = gauge("oldest_unknown_seconds", "Age of the oldest create with an unknown outcome.", "provider")
    for provider, (count, age) in figures.unknown.items():
        unknown.labels(provider).set(count)
        oldest.labels(provider).set(age)
    dead = gauge("dead_machines", "Machines that were ready and do not work any more.", "provider")
    for provider, number in figures.dead.items():
        dead.labels(provider).set(number)
    pools = gauge("warm_pools", "Warm pools, by state.", "state")
    for state, number in figures.pools.items():
        pools.labels(state).set(number)
    gauge("spent_usd", "Sum of all meters since the database was created.").set(figures.spent_usd)
    gauge("usd_per_hour", "Current cost of all machines per hour.").set(figures.usd_per_hour)
    account = ("provider", "account")
    reconcile = gauge("reconcile_age_seconds", "Time since the last reconciliation of the account.", *account)
    silent = gauge("account_silent_seconds", "Time since the account answered; 0 if it answers.", *account)
    wait = gauge("create_wait_seconds", "Time until the rate limit allows the next create.", *account)
    differs = gauge("spend_differs", "1: the provider's spend differs from the ledger.", *account)
    paused = gauge(
        "account_paused", "1: no creates on this account, because it has no credit or its key is refused.", *account
    )
    for each in figures.accounts:
        paused.labels(each.provider, each.account).set(each.paused)
        differs.labels(each.provider, each.account).set(each.spend_differs)
        if each.pass_age is not None:
            reconcile.labels(each.provider, each.account).set(each.pass_age)
        silent.labels(each.provider, each.account).set(each.silent)
        wait.labels(each.provider, each.account).set(each.create_wait)
    return registry


def _add_webhooks(registry: CollectorRegistry, figures: Figures) -> None:
    waiting = Gauge("gpuproxy_webhook_waiting", "Events that are not delivered yet.", ["target"], registry=registry)
    oldest = Gauge(
        "gpuproxy_webhook_oldest_seconds",
        "Age of the oldest event that is not delivered yet; 0: none waits.",
        ["target"],
        registry=registry,
    )
    for each in figures.webhooks:
        waiting.labels(each.target).set(each.waiting)
        age = 0.0 if each.oldest_at is None else (figures.at - each.oldest_at).total_seconds()
        oldest.labels(each.target).set(age)


def _add_limits(registry: CollectorRegistry, usages: Sequence[Usage]) -> None:
    """The fullest limit of each scope and window. Projects and keys are no labels: there may be any number of them."""
    label = ("scope", "window")
    of = "of the fullest spending limit of this scope and window."
    most = Gauge("gpuproxy_limit_usd", f"The amount {of}", label, registry=registry)
    spent = Gauge("gpuproxy_limit_spent_usd", f"What is spent {of}", label, registry=registry)
    held = Gauge("gpuproxy_limit_held_usd", f"What is held {of}", label, registry=registry)
    states = Gauge("gpuproxy_limits", "Spending limits, by how full they are.", ["state"], registry=registry)
    counted = dict.fromkeys(("ok", "near", "reached"), 0)
    fullest: dict[tuple[str, str], Usage] = {}
    for usage in sorted(usages, key=_fullness):
        counted["reached" if usage.left <= 0 else "near" if usage.near else "ok"] += 1
        key: tuple[str, str] = (usage.limit.scope, usage.limit.window.name)
        fullest.pop(key, None)
        fullest[key] = usage
    for state, number in counted.items():
        states.labels(state).set(number)
    for key, usage in list(fullest.items())[-_MOST_LIMITS:]:
        most.labels(*key).set(usd(usage.limit.amount))
        spent.labels(*key).set(usd(usage.spent))
        held.labels(*key).set(usd(usage.held))


def _fullness(usage: Usage) -> float:
    return (usage.spent + usage.held) / usage.limit.amount if usage.limit.amount else inf


def _add_health(registry: CollectorRegistry, problems: Mapping[Kind, int], checks: Mapping[str, str]) -> None:
    found = Gauge("gpuproxy_problems", "What gpuproxy doctor lists, by kind.", ["kind"], registry=registry)
    for kind, number in problems.items():
        found.labels(kind).set(number)
    ready = Gauge("gpuproxy_ready", "1: this check of /readyz is ok.", ["check"], registry=registry)
    for check, result in checks.items():
        ready.labels(check).set(result == OK)
