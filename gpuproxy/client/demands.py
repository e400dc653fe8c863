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

from gpuproxy.v1 import gpuproxy_pb2 as pb

DEFAULT_TIMEOUT = 30.0
RESERVE_TIMEOUT = 120.0
READY_TIMEOUT = 900.0
PAGE = 200

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
    """Fields of ReserveGPUsRequest, without `count` and `dry_run`, which are methods' own."""

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
    lease_duration: timedelta
    keep_late: bool
    wait_for: str
    ready_timeout: timedelta
    on_not_ready: str
    wait: bool
    labels: Mapping[str, str]


def listing(filters: Filters) -> pb.ListGPUInstancesRequest:
    """What can be rented."""
    return pb.ListGPUInstancesRequest(**filters)


def demanded(count: int, demand: Demand, *, dry_run: bool = False) -> pb.ReserveGPUsRequest:
    """A reservation of `count` GPUs, with an id of its own where the caller gives none."""
    request = pb.ReserveGPUsRequest(count=count, dry_run=dry_run, **demand)  # type: ignore[arg-type] # takes timedelta
    return with_request_id(request)


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
        raise ValueError("until: say the time zone, as in datetime.now(UTC) + timedelta(hours=2)")
    expires_at = Timestamp()
    expires_at.FromDatetime(until)
    return pb.ExtendReservationRequest(reservation_id=reservation_id, expires_at=expires_at)
