"""The metrics of one server, under their Prometheus names. The registry belongs to the server; nothing is global.

Events are counted when they happen. What the database knows is read for each scrape. Label values come from the server
(calls, codes, providers, account names), never from clients.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gpuproxy.app.figures import Figures
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import ProviderError, Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
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

_RPC_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2, 10, 30, 120, 600)
_CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)
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

    def render(self, figures: Figures) -> bytes:
        """The metrics and `figures` in the text format of Prometheus."""
        return generate_latest(self._registry) + generate_latest(_gauges(figures))


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

    async def stop(self, instance_id: InstanceId) -> None:
        """As the provider's."""
        with self._counted("stop"):
            await self._provider.stop(instance_id)

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """As the provider's."""
        with self._counted("extend"):
            await self._provider.extend(instance_id, hours)

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
