"""A subject with its adapter connected to it, and the steps that most rules begin with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from gpuproxy.conformance.subject import Make, Subject
from gpuproxy.conformance.verdict import Broken, NotJudged, ended
from gpuproxy.conformance.wire import Wire
from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import NoCapacity, OfferGone, ProviderError
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.offers import HIGHEST_PRICE, Offer, OfferFilter
from gpuproxy.ports import ProviderSetup, Receipt

T = TypeVar("T")

SECRET = "canary-of-the-conformance-suite"  # noqa: S105 - it protects nothing
"""The value of a secret variable of every launch."""
TIMEOUTS = {"search": 31.0, "create": 29.0, "call": 23.0}
"""The configured timeouts in real seconds."""
_ACCOUNT = "conformance"


class QuickClock:
    """A Clock for stand-ins without one. A sleep returns at once and advances the clock. For one task at a time."""

    scale = 1.0

    def __init__(self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._seconds = 0.0

    def now(self) -> datetime:
        """The start time plus all seconds slept."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """All seconds slept so far."""
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        """Advance the clock by the seconds, and return at once."""
        self._seconds += max(0.0, seconds)
        await asyncio.sleep(0)

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """A timeout in real seconds, so that a call that really hangs does not block the suite."""
        return asyncio.timeout(seconds)


def with_secret(spec: LaunchSpec) -> LaunchSpec:
    """The launch with the suite's secret variable."""
    return replace(spec, secret_env=(*spec.secret_env, ("CONFORMANCE_SECRET", SECRET)))


class _Inline:
    """Workers without threads."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        return work(*args)


class Bench:
    """The adapter of a new subject. Every interval is 0, except those in `intervals`."""

    def __init__(self, make: Make, intervals: Mapping[str, float] | None = None, *, prepaid_hours: int = 1) -> None:
        self.subject: Subject = make()
        self.clock = self.subject.clock
        self.wire = Wire(self.subject.http, self.clock)
        self.spec: LaunchSpec = with_secret(self.subject.spec) if self.subject.secret_env else self.subject.spec
        unpaced = dict.fromkeys((call.name for call in self.subject.descriptor.calls), 0.0)
        setup = ProviderSetup(
            account=_ACCOUNT,
            key=self.subject.key,
            base_url="http://conformance.invalid",
            http=self.wire,
            clock=self.clock,
            workers=_Inline(),
            intervals={**unpaced, **(intervals or {})},
            timeouts=TIMEOUTS,
            prepaid_hours=prepaid_hours,
        )
        self.provider = self.subject.descriptor.connect(setup)
        self._labels = 0

    def label(self) -> str:
        """A new label that no machine has."""
        self._labels += 1
        return f"conformance-{self._labels}"

    def lease_label(self) -> str:
        """A new label in the form of the engine's own ones."""
        self._labels += 1
        return f"gpx-abcdef-ghijklmn-{self._labels:02}-opqrst"

    async def offers(self) -> list[Offer]:
        """The offers of the first page."""
        async for page in self.search():
            return list(page)
        raise Broken("a search without filters returns no offer")

    def search(self) -> AsyncIterator[Sequence[Offer]]:
        """All offers at any price, with the disk size of the launch."""
        wanted = OfferFilter(max_price=HIGHEST_PRICE, verified_only=False, disk_gb=self.spec.disk_gb)
        return self.provider.search(wanted)

    async def all_offers(self) -> list[Offer]:
        """Every page of the search."""
        return [offer async for page in self.search() for offer in page]

    async def create(self, offer: Offer, label: str = "") -> Receipt | ProviderError:
        """Create one machine, and return the receipt or the error."""
        return await ended(self.provider.create(offer, self.spec, label or self.label()))

    async def rented(self, count: int = 1) -> list[InstanceId]:
        """Rent `count` machines, and wait until they must be listed."""
        made: list[InstanceId] = []
        for offer in await self.all_offers():
            outcome = await self.create(offer)
            if isinstance(outcome, Receipt):
                made.append(outcome.instance_id)
            elif not isinstance(outcome, OfferGone | NoCapacity):
                raise Broken(f"a create without a fault ended with {type(outcome).__name__}: {outcome}")
            if len(made) == count:
                break
        else:
            raise NotJudged(f"the stand-in has too few offers to rent {count} machines")
        await self.clock.sleep(self.provider.capabilities.listing_lag_seconds)
        self.wire.forget()
        return made
