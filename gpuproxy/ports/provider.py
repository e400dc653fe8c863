"""One account at one marketplace."""

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Violation
from gpuproxy.model.leases import InstanceId
from gpuproxy.model.money import Micro
from gpuproxy.model.offers import Offer, OfferFilter, ProviderName
from gpuproxy.ports.clock import Clock
from gpuproxy.ports.http import Http
from gpuproxy.ports.instances import Inventory, ListedInstance
from gpuproxy.ports.pacing import SharedTurns
from gpuproxy.ports.volumes import VolumeInventory, VolumeOffer
from gpuproxy.ports.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """An executed create. `paid` and `booked_until` are set if the provider bills in advance."""

    instance_id: InstanceId
    paid: Micro | None = None
    booked_until: datetime | None = None
    left_out: tuple[str, ...] = ()
    """The parts of the boot script that were not sent, because the launch has no room for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """The account as the provider reports it. Amounts are micro-dollars."""

    credit: Micro
    owner: str = ""
    """The provider's id of the account, the same for each of its keys; empty if the provider does not report one."""


CAPABILITY_NAMES: Mapping[str, str] = {
    "charges": "`charges` tells what each machine cost, so that the ledger is corrected by it",
    "container_key": "see below",
    "credit": "`spend` tells the account's credit",
    "custom_image": "a machine starts the image that the caller chooses",
    "entrypoint": "`run_mode` `entrypoint`: the image's own command runs, with `args`",
    "extend": "`extend` books more hours of a machine that is paid in advance",
    "hold_gpu": "a container can read its own label; see below",
    "jupyter": "`run_mode` `jupyter`",
    "labels": "listings show the label of a machine. Every adapter needs this",
    "logs": "`logs` reads the last lines of a machine's log",
    "ports": "ports of a machine can be opened",
    "refundable": "a destroy ends the costs, or pays back what the refund rule says",
    "registry_auth": "images are pulled with the caller's login of a registry",
    "spot": "machines that the marketplace may interrupt can be rented. No call asks for one yet",
    "ssh": "machines have SSH, and count as ready when it answers",
    "ssh_keys": "`add_ssh_key` gives a key to a machine that exists. Keys of a create don't need it",
    "stop_start": "`stop` and `start`; a stopped machine keeps its disk",
    "volume_sharing": "two machines can have one volume; see below",
    "volumes": "the calls for volumes",
}
"""The capabilities that a provider can lack, and what each means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do, and how its calls behave. Seconds are those of the clock, unless they are called real."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """The capabilities that it lacks (of CAPABILITY_NAMES), each with the reason that clients see."""
    billing: Literal["metered", "prepaid"] = "metered"
    """Prepaid: whole hours are paid at the create and by `extend`, and the machine ends with its booking."""
    refund_after: float | None = None
    """Prepaid: a destroy gives back what was paid for the time after this many seconds of use; None: nothing."""
    listing_may_miss: bool = False
    """A listing without errors may lack an instance that exists, so that only `get` proves that one is gone."""
    search_page: int | None = None
    """The maximum number of offers on one search page; None: no maximum is known."""
    search_interval: float = 0.0
    """The average number of seconds between two searches of one account."""
    create_interval: float = 0.0
    """The minimum number of seconds between two creates of one account."""
    create_seconds: float = 2.0
    """The usual duration of a create, in seconds."""
    create_timeout: float = 30.0
    """The number of real seconds after which a create without an answer has an unknown outcome."""
    listing_lag_seconds: float = 60.0
    """The number of seconds for which listings may lack a new instance."""
    destroy_interval: float = 0.0
    """The minimum number of seconds between two destroys of one account."""
    verdict_seconds: float = 120.0
    """A new instance is released if every listing of so many seconds shows it as stopped, broken or another model."""
    late_seconds: float | None = None
    """The number of seconds after its call within which a create or start may be executed; None: no bound is known."""
    boot_script: bool = False
    """The adapter starts GPU Proxy's boot script on each machine. Its report is then read from the machine's log."""
    gpu_failure: re.Pattern[str] | None = None
    """A pattern that matches the status message of a running machine only if one of its GPUs has failed.

    The messages of the GPU driver are known already. This is for those of the marketplace.
    """


class Provider(Protocol):
    """One account at one marketplace. It raises the errors of `model.errors`; in doubt, OutcomeUnknown."""

    name: ProviderName
    account: str
    """A name, never the key."""
    capabilities: Capabilities

    def check_launch(self, spec: LaunchSpec) -> Sequence[Violation]:
        """What this marketplace does not accept in a launch, by the name of the spec's field; empty: nothing.

        No call is made, and the same launch always has the same answer. The engine asks before it rents, and often. A
        launch without objections must not be refused by `create` for what is in it.
        """

    def search(self, wanted: OfferFilter) -> AsyncIterator[Sequence[Offer]]:
        """Yield pages of rentable offers, cheapest first. They may include offers that do not pass the filter.

        Raises ProviderError between pages if a page fails. The pages before it are valid, but not complete. An answer
        with a wrong schema is an error, never an empty market.
        """

    async def create(self, offer: Offer, spec: LaunchSpec, label: str) -> Receipt:
        """Rent `offer`. The machine has the label from the moment it exists. The request is sent at most once.

        Raises a Refused if certainly nothing was created, and OutcomeUnknown if that is not certain.
        """

    async def list(self) -> Inventory:
        """List all instances of the account. If a page fails, this raises ProviderError; the list is never shorter.

        The number of pages and the time are limited. A row that can't be decoded is reported in `unreadable`, and the
        other rows are listed.
        """

    async def get(self, instance_id: InstanceId) -> ListedInstance | None:
        """Read one instance. None: the provider reports that it does not exist."""

    async def destroy(self, instance_id: InstanceId) -> bool:
        """Request the destroy, and return once it is accepted. True: the provider reports that there is no instance.

        Neither answer proves that the instance is gone. `get` and `list` prove it.
        """

    async def start(self, instance_id: InstanceId) -> None:
        """Request a start. NoCapacity: its GPUs are rented to somebody else; the start may be queued nevertheless."""

    async def relabel(self, instance_id: InstanceId, label: str) -> None:
        """Change the label. Returns once it is accepted; `get` or `list` shows it. Only with `container_key`.

        It can be repeated without harm.
        """

    async def stop(self, instance_id: InstanceId) -> None:
        """Request a stop. It also cancels a queued start. Stopping a stopped instance is no error."""

    async def extend(self, instance_id: InstanceId, hours: int) -> None:
        """Pay for `hours` more hours. The request is sent at most once. Only with the capability `extend`.

        The call ends within `create_timeout`. If it must wait too long for its turn, it raises RateLimited.
        Raises a Refused if certainly nothing was bought, and OutcomeUnknown if that is not certain: then the instance's
        `booking` tells, in two reads that agree.
        """

    async def used(self, instance_id: InstanceId) -> timedelta | None:
        """For how long an instance that is gone ran, as the provider charges it; None: it does not tell.

        Asked only where `refund_after` says that the rest is given back, and unless the first destroy was accepted.
        """

    async def logs(self, instance_id: InstanceId, lines: int) -> Sequence[str]:
        """The last lines that the container printed, oldest first."""

    async def add_ssh_key(self, instance_id: InstanceId, public_key: str) -> None:
        """Let a key (one line in OpenSSH format) log in, for the whole life of the instance. Can be repeated."""

    async def charges(self, since: datetime, until: datetime) -> Mapping[InstanceId, Micro]:
        """The total charge of each instance that existed in this period, as far as the provider lists it."""

    async def spend(self) -> Spend:
        """Read the account's credit. Only with the capability `credit`."""

    async def volume_offers(self, machine_ids: Collection[str], size_gb: int) -> Sequence[VolumeOffer]:
        """Where on these hosts a volume of this size could be rented now. Only with the capability `volumes`.

        Complete or a ProviderError: a host that is not in the answer has no such space.
        """

    async def create_volume(self, offer: VolumeOffer, size_gb: int, label: str) -> Receipt:
        """Rent a volume, which has the label from the moment it exists. The request is sent at most once.

        Raises a Refused if certainly nothing was created, and OutcomeUnknown if that is not certain.
        """

    async def list_volumes(self) -> VolumeInventory:
        """List all volumes of the account. If a part fails, this raises ProviderError; the list is never shorter."""

    async def delete_volume(self, volume_id: InstanceId) -> bool:
        """Request the deletion of a volume and its data. True: the provider reports that there is no such volume.

        Neither answer proves that it is gone; `list_volumes` does. Raises VolumeInUse while an instance has it.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSetup:
    """The argument of `Descriptor.connect`, which is called once for each account."""

    account: str
    key: str = field(repr=False)
    region: str = ""
    """As configured; empty if it is not."""
    base_url: str
    """Empty: the real service."""
    http: Http
    clock: Clock
    workers: Workers
    intervals: Mapping[str, float] = field(default_factory=dict)
    """Minimum seconds between two calls, by endpoint. They replace the adapter's own; 0 means no limit."""
    shared: SharedTurns | None = None
    """Set if several processes use the account: endpoints that any of them may call take their turns here too."""
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Timeout of one call in real seconds, by endpoint: search, create, or "call" for all others."""
    container_key: bool | None = None
    """Whether a machine of the account was measured to be able to read itself; None: it was not measured."""
    prepaid_hours: int = 1
    """How many hours a create books where the marketplace is paid in advance."""
    marks: Mapping[str, str] = field(default_factory=dict)
    """Pairs that are added to the extras of every offer, for example sandbox=true."""
