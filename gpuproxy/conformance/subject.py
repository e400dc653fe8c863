"""What the author of an adapter gives to the suite: a stand-in of the marketplace and what only its author knows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gpuproxy.model.demands import LaunchSpec
from gpuproxy.model.errors import Refused
from gpuproxy.model.leases import InstanceId
from gpuproxy.ports import Clock, Descriptor, Http, HttpRequest, HttpResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRefusal:
    """An answer by which the marketplace refuses a create, and the error that it has to become."""

    answer: HttpResponse
    error: type[Refused]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One adapter on a fresh stand-in of its marketplace, in which nothing is rented yet.

    The stand-in behaves well and has no rate limits: the suite spoils requests and answers on their way.
    """

    descriptor: Descriptor
    key: str = field(repr=False)
    """A key that the stand-in accepts."""
    http: Http
    """The stand-in, whatever the address of a request."""
    clock: Clock
    """The adapter waits on it. A clock that only counts (`QuickClock`) keeps the suite fast."""
    is_create: Callable[[HttpRequest], bool]
    """True for the request that rents a machine."""
    machines: Callable[[], Mapping[InstanceId, str]]
    """The labels of the machines that exist at the stand-in, by id: the truth that the adapter is judged by."""
    machines_for_pages: int = 1
    """How many machines make a listing that needs more than one page; 1 where a listing is one page."""
    refusals: Sequence[KnownRefusal] = ()
    error_with_id: Callable[[InstanceId], HttpResponse] | None = None
    """An error of the marketplace's that carries the id of a machine. None: it has none."""
    spoil_row: Callable[[], None] | None = None
    """Makes one row of the next listing unreadable. None: rows can't be spoilt."""
    spec: LaunchSpec = LaunchSpec(disk_gb=10)  # noqa: RUF009 - frozen
    """What is launched; the suite adds secrets of its own."""


Make = Callable[[], Subject]
"""A fresh subject; most rules need several."""
