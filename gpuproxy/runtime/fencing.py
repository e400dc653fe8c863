"""The last check before a request with effects leaves the process: whether it still has the claim on the work.

The check in the database comes earlier, in the unit of work that precedes the effect. Between that and the request lie
waits for turns, and perhaps a pause of the whole process. A request that is refused here was certainly not sent.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gpuproxy.ports import Http, HttpNotSent, HttpRequest, HttpResponse

_holds: ContextVar[Callable[[], bool] | None] = ContextVar("holds", default=None)


@contextmanager
def under(holds: Callable[[], bool]) -> Iterator[None]:
    """Send requests with effects only while `holds()`. Tasks that are started in the block inherit this."""
    token = _holds.set(holds)
    try:
        yield
    finally:
        _holds.reset(token)


class FencedHttp:
    """The Http port, with the check. Reads are not checked."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def send(self, request: HttpRequest) -> HttpResponse:
        """As the port. Raises HttpNotSent too if the claim is over."""
        holds = _holds.get()
        if holds is not None and request.method != "GET" and not holds():
            raise HttpNotSent("this process no longer has the claim on the work")
        return await self._http.send(request)
