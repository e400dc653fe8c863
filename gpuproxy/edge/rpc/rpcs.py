"""What holds for each RPC before its handler runs: who may call it, how long it may take, how large it may be.

Everything else about an RPC is in the contract (the descriptors) and in `service`. An RPC that `service` has no method
for answers UNIMPLEMENTED. Each one is in exactly one of OPEN, READS, WRITES and ADMIN_ONLY: a new one that nobody has
put there stops the start. Whatever the role, what is another project's is NOT_FOUND for all but admins.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from gpuproxy.model.demands import Caller
from gpuproxy.model.users import Role
from gpuproxy.v1 import gpuproxy_pb2 as pb

CONTRACT = pb.DESCRIPTOR.services_by_name["GPUProxyService"]
MAX_REQUEST_BYTES = 1024 * 1024
"""Of any request, over either face."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that exists as bytes already, in the form of each face."""

    wire: bytes
    json: Callable[[], bytes]


Answer = Message | bytes | Ready
"""Bytes are those of a call outside the contract."""
Handler = Callable[[Any, Caller], Awaitable[Answer]]
"""From a decoded request to the answer."""
Streamer = Callable[[Any, Caller], AsyncGenerator[Message, None]]
"""From a decoded request to the answers, one after the other."""

OPEN = frozenset({"Login", "HealthCheck"})
"""Need no credentials."""
READS = frozenset(
    {
        "ListAPIKeys",
        "ListSSHKeys",
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
    }
)
"""A user may call them."""
ADMIN_ONLY = frozenset({"SetSpendingLimit"})
SECONDS = {"ReserveGPUs": 120.0, "CreateGPUInstance": 120.0, "ProvisionWarmPool": 600.0, "TestWarmPoolFailover": 600.0}
"""Real seconds that a call may take where the caller sets no deadline."""
DEFAULT_SECONDS = 30.0

POLL = ("x-gpuproxy-poll", "1")
"""Metadata of a read that a program repeats while it waits, as `gpuproxy reserve` does."""

RANK: Mapping[Role, int] = {"viewer": 0, "user": 1, "admin": 2}
"""A role may do whatever a lower one may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One RPC as the dispatcher sees it."""

    name: str
    decode: Callable[[bytes], Any]
    handler: Handler | None = None
    """None: not built yet."""
    role: Role | None = "user"
    """The least that the caller must be; None: no credentials are needed."""
    seconds: float = DEFAULT_SECONDS
    streams: bool = False
    streamer: Streamer | None = None
    """Instead of the handler, where it streams."""


def rpcs_of(service: object) -> tuple[Rpc, ...]:
    """Every RPC of the contract, with the method of `service` that has its name, if there is one."""
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
    """The names of the RPCs that `service` has."""
    return frozenset(rpc.name for rpc in rpcs_of(service) if rpc.handler or rpc.streamer)


def allows(rpc: Rpc, caller: Caller) -> bool:
    """True when this caller may make this call."""
    return rpc.role is None or RANK[caller.role] >= RANK[rpc.role]


def least_role(name: str) -> Role | None:
    """The least that a caller must be, None: nobody in particular; raises LookupError for an RPC in no table."""
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
