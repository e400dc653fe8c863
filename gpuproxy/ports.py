"""All the outside world that the program needs: interfaces and the values that cross them, nothing else.

Nobody else reads the time, the network, randomness or threads; that is what makes a whole deployment, marketplace
included, run deterministically under a test's virtual clock. Adapters are chosen in `main` alone.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeVar

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.leases import InstanceId, PortMapping
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, ProviderName

T = TypeVar("T")


class Clock(Protocol):
    """Time at a scale: everything below counts in the clock's own seconds unless it says "real"."""

    scale: float
    """How many of the clock's seconds pass in a real one."""

    def now(self) -> datetime:
        """Aware UTC."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many of the clock's seconds."""

    def timeout(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """As asyncio.timeout, in the clock's seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """`timeout` bounds the whole exchange, body included, in real seconds."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 30.0
    max_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpNotSent(Exception):
    """No byte of the request can have reached the server."""


class HttpReplyLost(Exception):
    """The request may have arrived and may have been executed; there is no whole answer."""


class Http(Protocol):
    """One request, one response; nothing is ever sent twice, no redirect is followed for a request with effects."""

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Any status is a response; raises HttpNotSent or HttpReplyLost."""


class Probe(Protocol):
    """Whether something is reachable from here."""

    async def reachable(self, kind: Literal["tcp", "ssh"], host: str, port: int, timeout: float) -> bool:
        """tcp: it accepts; ssh: it accepts and greets. `timeout` in real seconds. Never raises."""


class Random(Protocol):
    """Ids and secrets."""

    def token(self, length: int) -> str:
        """So many characters of lower-case base32."""

    def secret(self, length: int) -> bytes:
        """So many unguessable bytes."""


class Workers(Protocol):
    """Threads for work that would stall the loop."""

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """The result of work(*args), run elsewhere."""


class Tx(Protocol):
    """One unit of work inside a transaction. Rows are mappings by column name."""

    def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows that changed."""

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Mapping[str, Any]]:
        """All rows."""

    def fetch_one(self, sql: str, params: Sequence[Any] = ()) -> Mapping[str, Any] | None:
        """The first row, or None."""

    def now(self) -> datetime:
        """The database's time: what claims and deadlines are judged by."""

    def changed(self, topic: str) -> None:
        """Wake the watchers of `topic` once this unit is committed."""

    def after_commit(self, call: Callable[[], None]) -> None:
        """Call it once this unit is committed, on the loop and in the context of who wrote it.

        Never for a unit that failed or ran again; what it raises is logged and goes no further. After a crash between
        the commit and the call, it is not called.
        """

    def lasting(self) -> bool:
        """False while what is written would not be found again: the database's file was removed or replaced."""

    def before_spending(self) -> None:
        """Call it before what is paid for: raises Unavailable while the books serve for giving back only.

        That is when the last room on the disk is kept for it, or when they are not `lasting`.
        """


class Database(Protocol):
    """Durable units of work: `fn` has no outside effects and may run again when the database asks for it."""

    async def write(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` in a transaction; when this returns, it survives a crash."""

    async def read(self, fn: Callable[[Tx], T]) -> T:
        """Run `fn` on a consistent snapshot."""

    def watch(self, topic: str) -> AbstractAsyncContextManager["Wakeups"]:
        """Wakeups for a topic, from now on."""

    async def close(self) -> None:
        """Flush and close."""


class Wakeups(Protocol):
    """Something changed; look again."""

    async def wait(self) -> None:
        """Return at the next change, or at once when one came since the last call."""


class InstanceStatus(StrEnum):
    """What a provider's many words come down to."""

    PENDING = "pending"  # being made or booted
    RUNNING = "running"
    STOPPED = "stopped"  # holds disk, no GPU
    BROKEN = "broken"  # could not be started; will not get better by itself
    OFFLINE = "offline"  # the host does not answer; it may come back
    UNSURE = "unsure"  # a word that we do not know


class Blame(StrEnum):
    """What a status message says can't work, whoever waits."""

    IMAGE = "image"  # the image, its registry or its entry point: it fails on every host alike
    HOST = "host"  # its disk, driver or container runtime: another host may do


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """What the provider says exists. Prices per hour, whole instance."""

    id: InstanceId
    label: str | None
    status: InstanceStatus
    raw_status: str
    status_message: str = ""
    blame: Blame | None = None
    """Only where the status message surely says so; None: wait and see."""
    price: Micro | None = None
    """All-in while running; None where the provider does not say."""
    stopped_price: Micro | None = None
    """While it holds no GPU: disk only."""
    gpu_model: str = ""
    num_gpus: int = 0
    machine_id: str = ""
    created_at: datetime | None = None
    ends_at: datetime | None = None
    ssh_host: str = ""
    ssh_port: int = 0
    ports: tuple[PortMapping, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What one listing of an account shows."""

    instances: Sequence[Instance]
    unreadable: tuple[str, ...] = ()
    """Rows that could not be read, in a few words each. While there are any, something unknown exists on the account,
    and no instance may be concluded absent because this listing does not show it."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do; what it can't is a name in `missing` with the reason that clients are shown.

    Names: stop_start, logs, charges, volumes, volume_sharing, spot, ssh, ports, custom_image, extend, refundable,
    labels, registry_auth, jupyter, entrypoint.
    """

    missing: Mapping[str, str] = field(default_factory=dict)
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
    settle_seconds: float = 60.0
    """How long a fresh instance may be missing from listings."""
    destroy_interval: float = 0.0
    """Seconds between two destroys of one account."""
    verdict_seconds: float = 120.0
    """How long a fresh instance must look wrong in every listing (stopped, broken, another model) to be given back."""
    late_seconds: float | None = None
    """How long after its call a create may still be executed; None: no bound is known."""


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

    async def get(self, instance_id: InstanceId) -> Instance | None:
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
    """What an entry point of the group `gpuproxy.providers` is called with: `connect(setup) -> Provider`."""

    account: str
    key: str = field(repr=False)
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
