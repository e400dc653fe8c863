"""The requests of the calls that have methods of their own: plain arguments in, messages out; ids and deadlines.

Arguments are named and meant as the fields of the contract; what is left out is the server's default.
"""

import secrets
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import TypedDict, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.client.errors import WrongArgument
from gpuproxy.v1 import gpuproxy_pb2 as pb

DEFAULT_TIMEOUT = 30.0
RESERVE_TIMEOUT = 120.0
READY_TIMEOUT = 900.0
PAGE = 200
_SPANS = frozenset({"lease_duration", "ready_timeout"})

Request = TypeVar("Request", bound=Message)


class Filters(TypedDict, total=False):
    """Fields of ListGPUInstancesRequest."""

    provider: str
    min_vram: float
    max_price: float
    gpu_model: str
    location: str
    verified_only: bool
    min_reliability: float
    num_gpus: int
    disk_gb: float
    order_by: str
    page_size: int
    page_token: str


class Demand(TypedDict, total=False):
    """Fields of ReserveGPUsRequest, without `count` and `dry_run`, which are methods' own; spans may be seconds."""

    provider: str
    min_vram: float
    max_price: float
    gpu_model: str
    location: str
    verified_only: bool
    min_reliability: float
    min_cuda: float
    exclude_hosts: Sequence[str]
    strategy: str
    packing: str
    min_count: int
    all_or_nothing: bool
    image: str
    registry_auth: pb.RegistryAuth
    env: Mapping[str, str]
    secret_env: Mapping[str, str]
    ports: Sequence[int]
    disk_gb: float
    ssh_public_keys: Sequence[str]
    onstart: str
    run_mode: str
    args: Sequence[str]
    request_id: str
    lease_duration: timedelta | float
    keep_late: bool
    wait_for: str
    ready_timeout: timedelta | float
    on_not_ready: str
    wait: bool
    labels: Mapping[str, str]


def listing(filters: Filters) -> pb.ListGPUInstancesRequest:
    """What can be rented."""
    request = pb.ListGPUInstancesRequest()
    for name, value in filters.items():
        request.MergeFrom(_with(request, name, value))
    return request


def demanded(count: int, demand: Demand, *, dry_run: bool = False) -> pb.ReserveGPUsRequest:
    """A reservation of `count` GPUs, with an id of its own where the caller gives none."""
    request = pb.ReserveGPUsRequest(dry_run=dry_run)
    for name, value in {"count": count, **demand}.items():
        sent = _span(name, value) if name in _SPANS and value is not None else value
        request.MergeFrom(_with(request, name, sent))
    return with_request_id(request)


def _with(request: Request, name: str, value: object) -> Request:
    """A message with this field alone; raises WrongArgument for a value that it can't hold."""
    if name not in request.DESCRIPTOR.fields_by_name:
        raise WrongArgument(name, "there is no such argument")
    try:
        return type(request)(**{name: value})
    except (TypeError, ValueError, OverflowError, AttributeError):
        shown = repr(value) if isinstance(value, int | float) else f"this {type(value).__name__}"  # may be a secret
        raise WrongArgument(name, f"{shown} can't be sent: the contract has another type or range") from None


def _span(name: str, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise WrongArgument(name, f"should be a timedelta or seconds, not {value!r}")
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise WrongArgument(name, f"{value!r} seconds are no span of time") from None


def with_request_id(request: Request) -> Request:
    """The request, or a copy with an id of its own where it has a field for one and the field is empty."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name or request_id_of(request):
        return request
    named = deepcopy(request)
    setattr(named, "request_id", f"py-{secrets.token_hex(12)}")  # noqa: B010 - which messages have it is not typed
    return named


def request_id_of(request: Message) -> str:
    """The id that a request carries, empty for one that has none."""
    return str(getattr(request, "request_id", ""))


def patience(request: pb.ReserveGPUsRequest) -> float:
    """Seconds that a reservation may take where the caller does not say."""
    if request.wait_for != "ready":
        return RESERVE_TIMEOUT
    return RESERVE_TIMEOUT + (request.ready_timeout.ToTimedelta().total_seconds() or READY_TIMEOUT)


def ending(reservation_id: str, until: datetime) -> pb.ExtendReservationRequest:
    """An extension; `until` must say its time zone."""
    if until.tzinfo is None:
        raise WrongArgument("until", "say the time zone, as in datetime.now(UTC) + timedelta(hours=2)")
    expires_at = Timestamp()
    expires_at.FromDatetime(until)
    return pb.ExtendReservationRequest(reservation_id=reservation_id, expires_at=expires_at)
