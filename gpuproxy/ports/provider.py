"""One account at one marketplace."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, ProviderName
from gpuproxy.ports.clock import Clock
from gpuproxy.ports.http import Http
from gpuproxy.ports.instances import Inventory, ListedInstance
from gpuproxy.ports.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A create that was executed. `paid` and `booked_until` where the provider bills ahead."""

    instance_id: InstanceId
    paid: Micro | None = None
    booked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """The provider's own view of the account, in micro-dollars."""

    credit: Micro
    owner: str = ""
    """The provider's own name of the account, whichever key asks; empty where it does not say."""


CAPABILITY_NAMES = frozenset(
    {
        "stop_start",
        "logs",
        "charges",
        "volumes",
        "volume_sharing",
        "spot",
        "ssh",
        "ports",
        "custom_image",
        "extend",
        "refundable",
        "labels",
        "registry_auth",
        "jupyter",
        "entrypoint",
    }
)
"""What a provider may lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do, and how its calls behave. Seconds are the clock's unless they are called real."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """What it can't do: one of CAPABILITY_NAMES, and the reason that clients are shown."""
    billing: Literal["metered", "prepaid"] = "metered"
    search_page: int | None = None
    """The most offers that one search page may hold; None: no cap is known."""
    search_interval: float = 0.0
    """Seconds between two searches of one account, on average."""
    create_interval: float = 0.0
    """Seconds between two creates of one account."""
    create_seconds: float = 2.0
    """How long a create usually takes."""
    create_timeout: float = 30.0
    """Real seconds after which a create counts as unanswered."""
    listing_lag_seconds: float = 60.0
    """How long a fresh instance may be missing from listings."""
    destroy_interval: float = 0.0
    """Seconds between two destroys of one account."""
    verdict_seconds: float = 120.0
    """How long a fresh instance must look wrong in every listing (stopped, broken, another model) to be given back."""
    late_seconds: float | None = None
    """How long after its call a create may still be executed; None: no bound is known."""
    gpu_failure: re.Pattern[str] | None = None
    """Found in the status message of a running machine only when one of its GPUs has failed.

    The GPU driver's own words are known already; this is for the marketplace's.
    """


class Provider(Protocol):
    """One account at one marketplace. Its errors are those of `model.errors`; when in doubt: OutcomeUnknown."""

    name: ProviderName
    account: str
    """A name, never the key."""
    capabilities: Capabilities

    def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """Rentable offers, a page at a time, cheapest first; the filter may be widened, never narrowed.

        Raises ProviderError between pages: what was yielded is true, but not all there is. An answer of the wrong
        schema is an error, never an empty market.
        """

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """Rent `offer`; the label is on the machine from birth. A call goes onto the wire at most once.

        Raises a Refused when surely nothing happened, OutcomeUnknown in every other case of doubt.
        """

    async def list(self) -> Inventory:
        """Everything of the account, or an error: a page that failed is an error, never a shorter list.

        Bounded in pages and in time. A row that can't be read is named in `unreadable` and hides no other row.
        """

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """None: the provider says that there is no such instance."""

    async def destroy(self, instance_id: InstanceId) -> bool:
        """Return when accepted. True: the provider says that there is no such instance (any more).

        Neither proves that it is gone: get and list do.
        """

    async def start(self, instance_id: InstanceId) -> None:
        """Return when accepted. NoCapacity: its GPUs are somebody else's now; the start may be queued all the same."""

    async def stop(self, instance_id: InstanceId) -> None:
        """Return when accepted, also by one that is stopped; it ends a queued start too."""

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """The last lines of what its container printed, oldest first."""

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """What each instance that existed within this time was charged in all, as far as it is listed."""

    async def spend(self) -> Spend:
        """The account's credit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSetup:
    """What `Descriptor.connect` is called with, once for each account."""

    account: str
    key: str = field(repr=False)
    region: str = ""
    """As the operator wrote it; empty: none was given."""
    base_url: str
    """Empty: the real service."""
    http: Http
    clock: Clock
    workers: Workers
    intervals: Mapping[str, float] = field(default_factory=dict)
    """Seconds between calls by endpoint, overriding the adapter's own (0 = unlimited)."""
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Real seconds for one call by endpoint (search, create, else "call"), overriding the adapter's own."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """Facts to add to the extras of every offer, such as sandbox=true."""
