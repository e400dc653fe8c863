"""Builds request messages from the arguments of the client's methods, with request ids and timeouts.

Arguments have the names and meanings of the contract's fields. The server's defaults apply to missing ones.
"""

import secrets
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from typing import TypedDict, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.client.errors import GPUProxyError, WrongArgument, error_of
from gpuproxy.v1 import gpuproxy_pb2 as pb

DEFAULT_TIMEOUT = 30.0
RESERVE_TIMEOUT = 120.0
READY_TIMEOUT = 900.0
_NEW_END = "the new end, as in datetime.now(UTC) + timedelta(hours=2)"
_A_TIME = "as in datetime(2026, 7, 1, tzinfo=UTC)"
POOL_TIMEOUT = 600.0
"""Of the calls that wait for machines of a warm pool, as on the server."""
END_TIMEOUT = 5.0
"""Of each call that ends what a stopped call has rented."""
END_PAUSES = (0.0, 1.0)
"""Seconds before each look for what a stopped call has rented: the server may store it just then."""
_LOST = frozenset({"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"})
"""Error codes after which machines may exist."""
_UNEXPLAINED = frozenset({"", "DEADLINE_EXCEEDED", "INTERNAL"})
"""Their reasons, if the server doesn't say what it has kept. "": the error is not the server's."""
_DURATIONS = frozenset({"lease_duration", "ready_timeout", "keep_failed_primary", "drill_every", "release_idle_after"})

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
    min_cpu_cores: float
    min_ram_gb: float
    min_disk_bandwidth: float
    min_inet_down: float
    min_inet_up: float
    max_traffic_price: float


class Demand(TypedDict, total=False):
    """Fields of ReserveGPUsRequest without `count` and `dry_run`. Durations are timedeltas or seconds."""

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
    min_cpu_cores: float
    min_ram_gb: float
    min_disk_bandwidth: float
    min_inet_down: float
    min_inet_up: float
    max_traffic_price: float
    same_model: bool
    same_country: bool
    release_idle_after: timedelta | float


class PoolSpec(TypedDict, total=False):
    """Fields of ProvisionWarmPoolRequest and EnableWarmPoolRequest. Durations are timedeltas or seconds."""

    provider: str
    """Only for ProvisionWarmPool."""
    gpu_name: str
    image: str
    disk_size: int
    volume_size: int
    max_price: float
    env: Mapping[str, str]
    secret_env: Mapping[str, str]
    registry_auth: pb.RegistryAuth
    onstart: str
    ports: Sequence[int]
    ssh_public_keys: Sequence[str]
    mount_path: str
    mode: str
    cross_host: str
    keep_failed_primary: timedelta | float
    health: str
    hold_gpu: bool
    drill_every: timedelta | float
    drill_window: str


class HostFilters(TypedDict, total=False):
    """Fields of ListWarmPoolHostsRequest."""

    gpu_name: str
    min_gpus: int
    max_price: float
    verified: bool


def filled(request: Request, fields: Mapping[str, object]) -> Request:
    """The request with these fields set; raises WrongArgument."""
    for name, value in fields.items():
        sent = _duration(name, value) if name in _DURATIONS and value is not None else value
        request.MergeFrom(_with(request, name, sent))
    return request


def list_request(filters: Filters) -> pb.ListGPUInstancesRequest:
    """The request for a list of offers; raises WrongArgument."""
    return filled(pb.ListGPUInstancesRequest(), filters)


def reserve_request(count: int, demand: Demand, *, dry_run: bool = False) -> pb.ReserveGPUsRequest:
    """The request to reserve `count` GPUs, with a new request id if the caller gives none; raises WrongArgument."""
    return with_request_id(filled(pb.ReserveGPUsRequest(dry_run=dry_run), {"count": count, **demand}))


def _with(request: Request, name: str, value: object) -> Request:
    """A message with only this field set; raises WrongArgument for a value of the wrong type or range."""
    if name not in request.DESCRIPTOR.fields_by_name:
        raise WrongArgument(name, "is not an argument of this call")
    try:
        return type(request)(**{name: value})
    except (TypeError, ValueError, OverflowError, AttributeError):
        shown = repr(value) if isinstance(value, int | float) else f"this {type(value).__name__}"  # may be a secret
        raise WrongArgument(name, f"{shown} has the wrong type or is out of range") from None


def _duration(name: str, value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise WrongArgument(name, f"must be a timedelta or a number of seconds, not {value!r}")
    try:
        return timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise WrongArgument(name, f"{value!r} seconds is not a valid duration") from None


def with_request_id(request: Request) -> Request:
    """The request, or a copy with a new request id if its request_id field is empty."""
    if "request_id" not in request.DESCRIPTOR.fields_by_name or request_id_of(request):
        return request
    named = deepcopy(request)
    setattr(named, "request_id", f"py-{secrets.token_hex(12)}")  # noqa: B010 - the type doesn't say which messages have it
    return named


def request_id_of(request: Message) -> str:
    """The request id of a message; "" if it has none."""
    return str(getattr(request, "request_id", ""))


def is_rental(request: Message) -> bool:
    """True if the call rents what can be found by its request id."""
    return bool(request_id_of(request)) and not getattr(request, "dry_run", False)


def is_kept(request: Message) -> bool:
    """True if what the call rents shall be kept although its caller has gone."""
    return bool(getattr(request, "keep_late", False))


def lost(request_id: str) -> str:
    """The note for the exception of a renting call that ended without an answer."""
    return f"Machines may exist. client.find({request_id!r}) shows them, and its release() ends them."


def failure(error: grpc.RpcError, request: Message) -> GPUProxyError:
    """The exception of a failed call. If the call may have rented machines, a note says how to find them."""
    failed = error_of(error, request_id_of(request))
    if is_rental(request) and failed.code in _LOST and failed.reason in _UNEXPLAINED:
        failed.add_note(lost(failed.request_id))
    return failed


def require_request_id(request_id: str) -> None:
    """Raise WrongArgument for an empty one: every reservation without a request id has it."""
    if not request_id.strip():
        raise WrongArgument("request_id", "must not be empty")


def reserve_timeout(request: pb.ReserveGPUsRequest) -> float:
    """The default timeout of a reservation call, in seconds."""
    if request.wait_for != "ready":
        return RESERVE_TIMEOUT
    return RESERVE_TIMEOUT + (request.ready_timeout.ToTimedelta().total_seconds() or READY_TIMEOUT)


def extend_request(reservation_id: str, until: datetime) -> pb.ExtendReservationRequest:
    """The request to extend a reservation; raises WrongArgument if `until` is no datetime with a time zone."""
    return pb.ExtendReservationRequest(reservation_id=reservation_id, expires_at=_time("until", until, _NEW_END))


def cost_report_request(
    by: Sequence[str], *, since: datetime | None, until: datetime | None, project: str
) -> pb.GetCostReportRequest:
    """The request for a cost report; raises WrongArgument for a time without a time zone."""
    return pb.GetCostReportRequest(
        start_time=None if since is None else _time("since", since, _A_TIME),
        end_time=None if until is None else _time("until", until, _A_TIME),
        group_by=by,
        project=project,
    )


def _time(name: str, value: datetime, hint: str) -> Timestamp:
    if not isinstance(value, datetime):
        kind = type(value).__name__
        raise WrongArgument(name, f"must be a datetime with a time zone, not {kind}: {hint}")
    if value.tzinfo is None:
        raise WrongArgument(name, f"must have a time zone: {hint}")
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp
