"""The Http port between an adapter and the stand-in. It counts requests and injects faults."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from gpuproxy.conformance.verdict import Broken
from gpuproxy.ports import Clock, Http, HttpNotSent, HttpReplyLost, HttpRequest, HttpResponse

MOST_REQUESTS = 2_000
"""Maximum requests of one subject. An adapter that sends more is assumed never to stop."""


class Spoil(Enum):
    """A fault. The stand-in executes the request, except with the first two."""

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
"""There is no answer, and the request may have been executed."""
BAD_ANSWER = (Spoil.GATEWAY, Spoil.FAILED, Spoil.EMPTY, Spoil.CUT, Spoil.OBJECT, Spoil.TEXT)
"""The request was executed, but the answer is unusable."""
OTHER_SCHEMA = (Spoil.OBJECT, Spoil.TEXT)
"""The answer is JSON, but not of the expected schema."""
FAILURES = (Spoil.NOT_SENT, *NO_ANSWER, Spoil.GATEWAY, Spoil.FAILED, Spoil.EMPTY, Spoil.CUT)
"""All faults except those of OTHER_SCHEMA."""


def _any(_request: HttpRequest) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class _Armed:
    what: Spoil | HttpResponse
    which: Callable[[HttpRequest], bool]
    after: int
    times: int


class Wire:
    """The Http port of one subject."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self.requests: list[HttpRequest] = []
        self.sent_at: list[float] = []
        """The time of each request, in monotonic seconds of the clock."""
        self.first_answer_again = False
        """True: every further request gets the first answer."""
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
        """Inject a fault into the next `times` requests that `which` selects, after the first `after` of them.

        If `what` is a response, it replaces the stand-in's answer, and the stand-in does not get the request.
        """
        self._armed = _Armed(what=what, which=which, after=after, times=times)

    def through(self, http: Http) -> None:
        """Send the requests to `http` instead of the stand-in."""
        self._http = http

    def heal(self) -> None:
        """Remove the fault."""
        self._armed = None

    def forget(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()
        self.sent_at.clear()
        self._first = None

    async def send(self, request: HttpRequest) -> HttpResponse:
        """See the port Http."""
        self.requests.append(request)
        self.sent_at.append(self._clock.monotonic())
        if len(self.requests) > MOST_REQUESTS:
            raise Broken(f"the adapter sent more than {MOST_REQUESTS} requests")
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
