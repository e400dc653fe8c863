"""The rules of each RPC that apply before its handler runs: required role, time limit, size limit.

Everything else about an RPC is in the contract (the descriptors) and in `service`. An RPC without a method in `service`
answers UNIMPLEMENTED. Each RPC is in exactly one of OPEN, READS, WRITES and ADMIN_ONLY; the server doesn't start if one
is missing. Resources of another project are NOT_FOUND for everybody but admins, whatever the role.
"""

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gpuproxy.model.demands import Caller
from gpuproxy.model.users import Role
from gpuproxy.v1 import gpuproxy_pb2 as pb

CONTRACT = pb.DESCRIPTOR.services_by_name["GPUProxyService"]
MAX_REQUEST_BYTES = 1024 * 1024
"""The largest request, over either interface."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that is already encoded: `wire` for gRPC, `json` for HTTP."""

    wire: bytes
    json: Callable[[], bytes]


Answer = Message | bytes | Ready
"""Plain bytes are the answer of a call outside the contract."""
Handler = Callable[[Any, Caller], Coroutine[Any, Any, Answer]]
"""Takes a decoded request and returns the answer."""
Streamer = Callable[[Any, Caller], AsyncGenerator[Message, None]]
"""Takes a decoded request and yields the answers."""

OPEN = frozenset({"Login", "HealthCheck"})
"""Anybody may call them, without credentials."""
READS = frozenset(
    {
        "ListAPIKeys",
        "ListSSHKeys",
        "ListProviders",
        "GetProviderProbe",
        "ListGPUInstances",
        "GetGPUInstance",
        "GetInstanceLogs",
        "GetReservation",
        "ListReservations",
        "WatchReservation",
        "GetLoadBalancerStrategy",
        "GetLoadInfo",
        "GetTransactions",
        "GetSpendingInfo",
        "CheckSpendingLimit",
        "ListSpendingLimits",
        "GetCostReport",
        "GetWarmPoolStatus",
        "ListWarmPools",
        "ListWarmPoolHosts",
        "WatchWarmPool",
    }
)
"""A viewer may call them."""
EXTRA_READS = frozenset(
    {
        "ReservationTimeline",
        "ReservationProject",
        "LeftOutOffers",
        "DoctorFindings",
        "ReconcilePasses",
        "WebhookDeliveries",
        "ListUsers",
    }
)
"""Reads of the dashboard that the contract does not have."""
WRITES = frozenset(
    {
        "CreateAPIKey",
        "RevokeAPIKey",
        "AddSSHKey",
        "DeleteSSHKey",
        "StartGPUInstance",
        "StopGPUInstance",
        "CreateGPUInstance",
        "DestroyGPUInstance",
        "ReserveGPUs",
        "ReleaseReservation",
        "ExtendReservation",
        "SetLoadBalancerStrategy",
        "ProvisionWarmPool",
        "EnableWarmPool",
        "DisableWarmPool",
        "TestWarmPoolFailover",
        "FailoverWarmPool",
        "CleanupWarmPool",
        "DeleteRetainedVolume",
    }
)
"""A user may call them."""
ADMIN_ONLY = frozenset({"SetSpendingLimit", "ListAuditEvents", "ProbeProvider"})
SECONDS = {
    "ReserveGPUs": 120.0,
    "CreateGPUInstance": 120.0,
    "ProvisionWarmPool": 600.0,
    "TestWarmPoolFailover": 600.0,
    "FailoverWarmPool": 600.0,
    "CleanupWarmPool": 600.0,
    "DeleteRetainedVolume": 600.0,
}
"""Maximum duration in real seconds of a call without a deadline of the caller."""
DEFAULT_SECONDS = 30.0

POLL = ("x-gpuproxy-poll", "1")
"""Metadata that marks a read as a poll: a program repeats it while it waits, as `gpuproxy reserve` does."""

RANK: Mapping[Role, int] = {"viewer": 0, "user": 1, "admin": 2}
"""A role may do everything that a lower role may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One RPC as the dispatcher sees it."""

    name: str
    decode: Callable[[bytes], Any]
    handler: Handler | None = None
    """None: not implemented yet, or streaming."""
    role: Role | None = "user"
    """The lowest role that may call it; None: no credentials are needed."""
    seconds: float = DEFAULT_SECONDS
    streams: bool = False
    streamer: Streamer | None = None
    """Used instead of `handler` if the RPC streams."""


def rpcs_of(service: object) -> tuple[Rpc, ...]:
    """Every RPC of the contract, with the method of the same name in `service` if it exists."""
    return tuple(
        Rpc(
            name=method.name,
            decode=GetMessageClass(method.input_type).FromString,
            handler=None if method.server_streaming else getattr(service, method.name, None),
            streamer=getattr(service, method.name, None) if method.server_streaming else None,
            role=least_role(method.name),
            seconds=SECONDS.get(method.name, DEFAULT_SECONDS),
            streams=method.server_streaming,
        )
        for method in CONTRACT.methods
    )


def built_of(service: object) -> frozenset[str]:
    """The names of the RPCs that `service` implements."""
    return frozenset(rpc.name for rpc in rpcs_of(service) if rpc.handler or rpc.streamer)


def allows(rpc: Rpc, caller: Caller) -> bool:
    """True if this caller may call this RPC."""
    return rpc.role is None or RANK[caller.role] >= RANK[rpc.role]


def least_role(name: str) -> Role | None:
    """The lowest role that may call the RPC; None: anybody. Raises LookupError for an RPC in no table or in two."""
    roles: tuple[tuple[frozenset[str], Role | None], ...] = (
        (OPEN, None),
        (READS, "viewer"),
        (WRITES, "user"),
        (ADMIN_ONLY, "admin"),
    )
    found = [role for names, role in roles if name in names]
    if len(found) != 1:
        raise LookupError(f"{name} must be in exactly one of OPEN, READS, WRITES and ADMIN_ONLY")
    return found[0]
