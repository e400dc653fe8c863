"""What is measured, under the names that Prometheus sees: one registry a server, nothing global.

Events are counted where they happen; what can be read from the books is read when somebody asks. Labels are words of
ours (calls, codes, providers, accounts by name), never anything that a client chose.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpuproxy.app.figures import Figures
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter
from gpuproxy.ports import Clock, Inventory, ListedInstance, Provider, Receipt, Spend

_RPC_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 30, 120, 600)
_CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
_LAG_BUCKETS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 1)


Begin = Callable[[Provider, str], Callable[[str], None]]
"""Told of each call to a marketplace; what comes back is told the outcome."""


class Metrics:
    """Everything that is counted by one server."""

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
            "Time that a marketplace took, with waiting for the rate limit.",
            ["provider", "call"],
            registry=registry,
            buckets=_CALL_BUCKETS,
        )
        self._lag = Histogram(
            "gpuproxy_loop_lag_seconds", "How late the event loop is.", registry=registry, buckets=_LAG_BUCKETS
        )

    def rpc(self, name: str, code: str, seconds: float) -> None:
        """A call was answered; real seconds."""
        known = self._known.get((name, code))
        if known is None:
            known = self._known[name, code] = self._rpcs.labels(name, code), self._rpc_seconds.labels(name)
        answered, took = known
        answered.inc()
        took.observe(seconds)

    def provider_call(self, provider: Provider, call: str, outcome: str, seconds: float) -> None:
        """A marketplace was called; real seconds."""
        self._calls.labels(provider.name, provider.account, call, outcome).inc()
        self._call_seconds.labels(provider.name, call).observe(seconds)

    def loop_lag(self, seconds: float) -> None:
        """The event loop was late by so many real seconds."""
        self._lag.observe(seconds)

    def render(self, figures: Figures) -> bytes:
        """Prometheus' text format: what was counted, and `figures`."""
        return generate_latest(self._registry) + generate_latest(_gauges(figures))


class Counted:
    """A Provider whose calls are counted."""

    def __init__(self, provider: Provider, metrics: Metrics, clock: Clock, begin: Begin | None = None) -> None:
        self.name = provider.name
        self.account = provider.account
        self.capabilities = provider.capabilities
        self._provider = provider
        self._metrics = metrics
        self._clock = clock
        self._begin = begin

    async def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """As the provider's; one call, however many pages."""
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

    async def stop(self, instance_id: InstanceId) -> None:
        """As the provider's."""
        with self._counted("stop"):
            await self._provider.stop(instance_id)

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """As the provider's."""
        with self._counted("logs"):
            return await self._provider.logs(instance_id, lines)

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """As the provider's."""
        with self._counted("charges"):
            return await self._provider.charges(since, until)

    async def spend(self) -> Spend:
        """As the provider's."""
        with self._counted("spend"):
            return await self._provider.spend()

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

    leases = gauge("leases", "Leases in the books.", "provider", "state")
    for (provider, state), count in figures.leases.items():
        leases.labels(provider, state).set(count)
    unknown = gauge("unknown_outcomes", "Creates that may have happened.", "provider")
    oldest = gauge("oldest_unknown_seconds", "Age of the oldest of them.", "provider")
    for provider, (count, age) in figures.unknown.items():
        unknown.labels(provider).set(count)
        oldest.labels(provider).set(age)
    dead = gauge("dead_machines", "Machines that were ready and are useless now.", "provider")
    for provider, number in figures.dead.items():
        dead.labels(provider).set(number)
    gauge("spent_usd", "What all meters ever ran up.").set(figures.spent_usd)
    gauge("usd_per_hour", "What everything that runs costs an hour.").set(figures.usd_per_hour)
    account = ("provider", "account")
    reconcile = gauge("reconcile_age_seconds", "Since the books were compared with reality.", *account)
    silent = gauge("account_silent_seconds", "For how long an account has not answered.", *account)
    wait = gauge("create_wait_seconds", "Until the rate limit allows another create.", *account)
    differs = gauge("spend_differs", "1: the provider's spend is not what the books say.", *account)
    paused = gauge("account_paused", "1: nothing is created with it: no funds, or its key is refused.", *account)
    for each in figures.accounts:
        paused.labels(each.provider, each.account).set(each.paused)
        differs.labels(each.provider, each.account).set(each.spend_differs)
        if each.pass_age is not None:
            reconcile.labels(each.provider, each.account).set(each.pass_age)
        silent.labels(each.provider, each.account).set(each.silent)
        wait.labels(each.provider, each.account).set(each.create_wait)
    return registry
