"""What the author of an adapter provides to the suite: a stand-in of the marketplace, and facts about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Refused
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import Clock, Descriptor, Http, HttpRequest, HttpResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRefusal:
    """An answer with which the marketplace refuses a create, and the error class that the adapter must raise."""

    answer: HttpResponse
    error: type[Refused]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """Facts about the stand-in's volumes, for a marketplace that has some. At first there is none."""

    is_create: Callable[[HttpRequest], bool]
    """True for the request that rents a volume."""
    volumes: Callable[[], Mapping[InstanceId, str]]
    """The labels of the volumes that exist at the stand-in, by id."""
    some_id: InstanceId
    """An id that a volume could have."""
    error_with_id: Callable[[InstanceId], HttpResponse] | None = None
    """An error answer of the marketplace with the id of a created volume. None: there is no such error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepaidFacts:
    """Facts about the stand-in's bookings, for a marketplace that is paid in advance."""

    is_extend: Callable[[HttpRequest], bool]
    """True for the request that buys more hours."""
    hours: Callable[[InstanceId], int]
    """The hours that were bought for a machine, extensions included."""


def _any(_request: HttpRequest) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One adapter and a new stand-in of its marketplace, in which no machine is rented.

    The stand-in behaves correctly and has no rate limits. The suite injects faults between the two.
    """

    descriptor: Descriptor
    key: str = field(repr=False)
    """A key that the stand-in accepts."""
    http: Http
    """The stand-in. It answers requests to any address."""
    clock: Clock
    """The clock that the adapter waits on. `QuickClock` keeps the suite fast."""
    is_create: Callable[[HttpRequest], bool]
    """True for the request that rents a machine."""
    machines: Callable[[], Mapping[InstanceId, str]]
    """The labels of the machines that exist at the stand-in, by id. The adapter's results are compared with them."""
    machines_for_pages: int = 1
    """The number of machines whose listing needs more than one page. 1: a listing always has one page."""
    is_page: Callable[[HttpRequest], bool] = _any
    """True for those requests of a listing without which it is not complete: its pages."""
    refusals: Sequence[KnownRefusal] = ()
    error_with_id: Callable[[InstanceId], HttpResponse] | None = None
    """An error answer of the marketplace with the id of a created machine. None: there is no such error."""
    spoil_row: Callable[[], None] | None = None
    """Makes one row of the next listing unreadable. None: the stand-in can't do that."""
    volumes: VolumeFacts | None = None
    """None: the marketplace has no volumes, and the adapter declares that."""
    prepaid: PrepaidFacts | None = None
    """None: the marketplace bills by use, and the adapter declares that."""
    secret_env: bool = True
    """False: the marketplace takes no environment, and the adapter objects to a launch with one."""
    spec: LaunchSpec = LaunchSpec(disk_gb=10)  # noqa: RUF009 - frozen
    """The launch of every create. The suite adds its own secret, unless `secret_env` is False."""


Make = Callable[[], Subject]
"""Creates a new subject. Most rules need several."""
