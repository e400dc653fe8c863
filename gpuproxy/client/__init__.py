"""The Python client: `Client` blocks, `AsyncClient` is for asyncio; both speak gRPC to a running server.

Everything that rents carries a request id, so that a repeat is never a second rental. Nothing here knows how the server
works inside: only the contract (`v1`) and gRPC are used.
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
