"""A stub whose rentals always have a request id, whatever repeats them: our channel, the caller's, or an interceptor.

The id is given before the request reaches the channel, so that every repeat below carries the same one.
"""

from typing import Any, TypeVar

from google.protobuf.message import Message

from gpuproxy.client.demands import with_request_id

Stub = TypeVar("Stub")

RENTALS = ("ReserveGPUs", "CreateGPUInstance")


class Identified:
    """A call of a stub, blocking or asyncio, that gives a request an id of its own where it has none."""

    def __init__(self, method: Any) -> None:  # a multi-callable of grpc or of grpc.aio: they share no type
        self._method = method

    def __call__(self, request: Message, *args: Any, **options: Any) -> Any:
        """The answer, or with asyncio the call."""
        return self._method(with_request_id(request), *args, **options)

    def with_call(self, request: Message, *args: Any, **options: Any) -> Any:
        """The answer and the call; blocking only."""
        return self._method.with_call(with_request_id(request), *args, **options)

    def future(self, request: Message, *args: Any, **options: Any) -> Any:
        """The call; blocking only."""
        return self._method.future(with_request_id(request), *args, **options)


def identified(stub: Stub) -> Stub:
    """The stub itself; from here on a request of its that rents leaves with a request id."""
    for name in RENTALS:
        setattr(stub, name, Identified(getattr(stub, name)))
    return stub
