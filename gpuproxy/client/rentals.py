"""Adds request ids to the renting calls of a stub.

The id is added before the request reaches the channel. Therefore every retry by a channel or an interceptor has the
same id, also on a channel of the caller's.
"""

from typing import Any, TypeVar

from google.protobuf.message import Message

from gpuproxy.client.demands import with_request_id

Stub = TypeVar("Stub")

RENTALS = ("ReserveGPUs", "CreateGPUInstance")


class RequestIdCall:
    """A method of a stub, blocking or asyncio, that adds a request id to requests without one."""

    def __init__(self, method: Any) -> None:  # a multi-callable of grpc or grpc.aio, which have no common type
        self._method = method

    def __call__(self, request: Message, *args: Any, **options: Any) -> Any:
        """Return the answer, or the call object with asyncio."""
        return self._method(with_request_id(request), *args, **options)

    def with_call(self, request: Message, *args: Any, **options: Any) -> Any:
        """Return the answer and the call object; blocking only."""
        return self._method.with_call(with_request_id(request), *args, **options)

    def future(self, request: Message, *args: Any, **options: Any) -> Any:
        """Return the call object; blocking only."""
        return self._method.future(with_request_id(request), *args, **options)


def with_request_ids(stub: Stub) -> Stub:
    """The same stub, changed so that all its renting calls send a request id."""
    for name in RENTALS:
        setattr(stub, name, RequestIdCall(getattr(stub, name)))
    return stub
