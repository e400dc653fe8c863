"""The Http port between an adapter and the stand-in: it counts requests and spoils them or their answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from gpuproxy.conformance.verdict import Broken
from gpuproxy.ports import Clock, Http, HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse

MOST_REQUESTS = 2_000
"""Of one subject; an adapter that sends more will never stop."""


class Spoil(Enum):
    """What goes wrong. But for the first two, the stand-in has executed the request."""

    NOT_SENT = "the connection is refused"
    LOST = "the request is lost on its way"
    UNANSWERED = "the answer is lost"
    HANGS = "no answer comes until the request's timeout"
    GATEWAY = "a gateway answers 502 with a page of HTML"
    FAILED = "the service answers 500"
    EMPTY = "the answer is empty"
    CUT = "the answer is cut off in the middle"
    OBJECT = "the answer is a JSON object without any known field"
    TEXT = "the answer is a JSON string"


NO_ANSWER = (Spoil.LOST, Spoil.UNANSWERED, Spoil.HANGS)
"""The request may have been executed; there is no answer."""
BAD_ANSWER = (Spoil.GATEWAY, Spoil.FAILED, Spoil.EMPTY, Spoil.CUT, Spoil.OBJECT, Spoil.TEXT)
"""The request was executed; the answer says nothing."""
OTHER_SCHEMA = (Spoil.OBJECT, Spoil.TEXT)
FAILURES = (Spoil.NOT_SENT, *NO_ANSWER, Spoil.GATEWAY, Spoil.FAILED, Spoil.EMPTY, Spoil.CUT)
"""All but those."""


def _any(_request: HttpRequest) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class _Armed:
    what: Spoil | HttpResponse
    which: Callable[[HttpRequest], bool]
    after: int
    times: int


class Wire:
    """One subject's wire."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self.requests: list[HttpRequest] = []
        self.sent_at: list[float] = []
        """By the clock, for each request."""
        self.first_answer_again = False
        """Every request is given the first answer from then on."""
        self._http = http
        self._clock = clock
        self._armed: _Armed | None = None
        self._first: HttpResponse | None = None

    def spoil(
        self,
        what: Spoil | HttpResponse,
        *,
        which: Callable[[HttpRequest], bool] = _any,
        after: int = 0,
        times: int = MOST_REQUESTS,
    ) -> None:
        """Spoil the next `times` requests of `which`, once `after` of them have passed.

        A response is given in the place of the stand-in's, which does not see the request.
        """
        self._armed = _Armed(what=what, which=which, after=after, times=times)

    def through(self, http: Http) -> None:
        """Send by way of `http`, which sees what the stand-in sees."""
        self._http = http

    def heal(self) -> None:
        """Spoil nothing any more."""
        self._armed = None

    def forget(self) -> None:
        """Count from 0 again."""
        self.requests.clear()
        self.sent_at.clear()
        self._first = None

    async def send(self, request: HttpRequest) -> HttpResponse:
        """As the port says."""
        self.requests.append(request)
        self.sent_at.append(self._clock.monotonic())
        if len(self.requests) > MOST_REQUESTS:
            raise Broken(f"{MOST_REQUESTS} requests and more: it does not end")
        if self.first_answer_again and self._first is not None:
            return self._first
        response = await self._carried_out(request, self._due(request))
        if self._first is None:
            self._first = response
        return response

    def _due(self, request: HttpRequest) -> Spoil | HttpResponse | None:
        armed = self._armed
        if armed is None or not armed.which(request) or armed.times == 0:
            return None
        if armed.after > 0:
            armed.after -= 1
            return None
        armed.times -= 1
        return armed.what

    async def _carried_out(self, request: HttpRequest, what: Spoil | HttpResponse | None) -> HttpResponse:
        if isinstance(what, HttpResponse):
            return what
        if what is Spoil.NOT_SENT:
            raise HttpNotSent("connection refused")
        if what is Spoil.LOST:
            raise HttpReplyLost("connection reset by peer")
        response = await self._http.send(request)
        if what is None:
            return response
        if what is Spoil.UNANSWERED:
            raise HttpReplyLost("connection reset by peer")
        if what is Spoil.HANGS:
            await self._clock.sleep(request.timeout * self._clock.scale)
            raise HttpReplyLost("no whole answer in time")
        return _bad_answer(what, response)


def _bad_answer(what: Spoil, response: HttpResponse) -> HttpResponse:
    if what is Spoil.GATEWAY:
        page = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
        return HttpResponse(status=502, headers={"content-type": "text/html"}, body=page)
    if what is Spoil.FAILED:
        return replace(response, status=500, body=b"Internal Server Error")
    bodies = {
        Spoil.EMPTY: b"",
        Spoil.CUT: response.body[: len(response.body) // 2],
        Spoil.OBJECT: b'{"unexpected": true}',
        Spoil.TEXT: b'"unexpected"',
    }
    return replace(response, body=bodies[what])
