"""The Python client: `Client` is blocking, `AsyncClient` is for asyncio. Both call a running server over gRPC.

Every call that rents carries a request id, so that a retry never rents twice. The client depends only on the contract
(`v1`) and on gRPC, not on the server's code.
"""

from gpuproxy.client.asynchronous import AsyncClient, AsyncReservation
from gpuproxy.client.blocking import Client, Reservation
from gpuproxy.client.errors import (
    AlreadyExists,
    CreationFailed,
    DeadlineExceeded,
    FailedPrecondition,
    GPUProxyError,
    InvalidArgument,
    NotAllReserved,
    NotBuilt,
    NotEnoughGPUs,
    NotFound,
    NotReady,
    PermissionDenied,
    TooManyCalls,
    Unauthenticated,
    Unavailable,
    WrongArgument,
)

__all__ = [
    "AlreadyExists",
    "AsyncClient",
    "AsyncReservation",
    "Client",
    "CreationFailed",
    "DeadlineExceeded",
    "FailedPrecondition",
    "GPUProxyError",
    "InvalidArgument",
    "NotAllReserved",
    "NotBuilt",
    "NotEnoughGPUs",
    "NotFound",
    "NotReady",
    "PermissionDenied",
    "Reservation",
    "TooManyCalls",
    "Unauthenticated",
    "Unavailable",
    "WrongArgument",
]
