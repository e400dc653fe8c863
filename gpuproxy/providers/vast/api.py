"""Calls of vast.ai's API. Each call keeps its interval and is sent once. Large answers are decoded in a thread.

The rule: an answer without exactly the requested content is an error. Other modules decide what an answer means.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from gpuproxy.model.errors import Advice, OutcomeUnknown, ProviderUnavailable, RateLimited, Refused
from gpuproxy.ports import Clock, HttpNotSent, HttpReplyLost, HttpRequest, ProviderSetup
from gpuproxy.ports.pacing import Pace, Window
from gpuproxy.providers.decode import Unreadable
from gpuproxy.providers.vast.errors import LONGEST_LEARNT, LONGEST_QUOTA, LONGEST_RETRY_AFTER, Reply, unread
from gpuproxy.providers.vast.wire import NAME

T = TypeVar("T")

INLINE_BYTES = 262_144
"""Answers up to this size are decoded on the loop, larger ones by the workers."""
MARGIN = 1.02
"""Intervals are longer by this factor, because two requests may take different times to arrive."""
_SEARCH_BURST = 10
_CALLED_BY_ANY = frozenset({"search", "manage"})
"""The endpoints that a process calls although another one supervises the account."""
_LONGEST_WAIT = 120.0
TIMEOUTS: Mapping[str, float] = {"search": 60.0, "create": 30.0, "call": 30.0}
_MOST_BYTES: Mapping[str, int] = {"search": 32 * 1024 * 1024, "call": 16 * 1024 * 1024}
"""Maximum size of an answer, by endpoint. A search answer has about 9 MB, a page of charges 500 KB, a page of a
listing 100 KB. Even in a thread, finding the rows of a page blocks everything else for 2 ms per MB."""


class VastApi:
    """The calls of one account."""

    def __init__(self, setup: ProviderSetup, base_url: str, intervals: Mapping[str, float]) -> None:
        """`intervals`: minimum seconds between two calls, by endpoint. The caller paces creates."""
        self.base_url = base_url
        self.intervals = intervals
        self.timeouts = {**TIMEOUTS, **setup.timeouts}
        self._setup = setup
        self._turns: dict[str, Pace | Window] = {
            name: Pace(setup.clock, seconds * MARGIN) for name, seconds in intervals.items() if name != "create"
        }
        self._turns["search"] = Window(setup.clock, _SEARCH_BURST, _SEARCH_BURST * intervals["search"] * MARGIN)

    def request(self, endpoint: str, method: str, path: str, body: Mapping[str, object] | None) -> HttpRequest:
        """A request with the API key."""
        headers = {"Authorization": f"Bearer {self._setup.key}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HttpRequest(
            method=method,
            url=self.base_url + path,
            headers=headers,
            body=None if body is None else msgspec.json.encode(body),
            timeout=self.timeouts.get(endpoint, self.timeouts["call"]),
            max_bytes=_MOST_BYTES.get(endpoint, _MOST_BYTES["call"]),
        )

    async def sent(
        self, request: HttpRequest, secrets: Sequence[str] = (), *, patience: float = LONGEST_RETRY_AFTER
    ) -> Reply:
        """Send the request; nothing else sends. Raises the errors of the Http port."""
        sent_at = self._setup.clock.monotonic()
        response = await self._setup.http.send(request)
        return Reply(
            response=response,
            received_at=self._setup.clock.now(),
            secrets=(self._setup.key, *secrets),
            patience=patience,
            sent_at=sent_at,
        )

    async def read(
        self, endpoint: str, path: str, body: Mapping[str, object] | None = None, *, within: float | None = None
    ) -> Reply:
        """The answer to a read: a GET, or a POST if there is a body. `within`: maximum time in real seconds."""
        await self.turn(endpoint)
        patience = LONGEST_QUOTA if endpoint == "search" else LONGEST_RETRY_AFTER
        request = self.request(endpoint, "GET" if body is None else "POST", path, body)
        if within is not None:
            request = replace(request, timeout=min(request.timeout, within))
        try:
            return await self.sent(request, patience=patience)
        except (HttpNotSent, HttpReplyLost) as error:
            raise ProviderUnavailable(f"{NAME} did not answer: {error}") from error

    async def change(
        self, endpoint: str, request: HttpRequest, judge: Callable[[Reply, float], T], *, repeatable: bool = True
    ) -> T:
        """Send a change once. `judge` returns if the answer is an acceptance, and raises otherwise.

        `repeatable`: the caller can repeat the change without harm if its answer is lost.
        """
        await self.turn(endpoint)
        try:
            reply = await self.sent(request)
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached: {error}") from error
        except HttpReplyLost as error:
            advice = Advice.RETRY_LATER if repeatable else Advice.STOP
            raise OutcomeUnknown(f"the answer was lost: {error}", advice=advice) from error
        try:
            return judge(reply, self.intervals[endpoint])
        except RateLimited as error:
            self._heed(endpoint, error, reply)
            raise

    async def decoded(self, endpoint: str, reply: Reply, decode: Callable[..., T], *args: Any) -> T:
        """`decode(body, *args)` for status 200. Otherwise, or if it can't be decoded, raises the error of `unread`."""
        if reply.response.status != 200:
            raise self.unread(endpoint, reply)
        body = reply.response.body
        try:
            if len(body) <= INLINE_BYTES:
                return decode(body, *args)
            return await self._setup.workers.run(decode, body, *args)
        except Unreadable as error:
            raise self.unread(endpoint, reply) from error

    def unread(self, endpoint: str, reply: Reply) -> Refused:
        """The error for an unusable answer to a read. If it is a rate limit, later calls keep it."""
        error = unread(reply, wait=self.intervals[endpoint])
        if isinstance(error, RateLimited):
            self._heed(endpoint, error, reply)
        return error

    def wait(self, endpoint: str) -> float:
        """The seconds until the next call may be sent."""
        return self._turns[endpoint].wait()

    async def turn(self, endpoint: str) -> None:
        """Wait until the next call may be sent. Raises RateLimited if that would take too long."""
        turns = self._turns[endpoint]
        if (wait := turns.wait()) > _LONGEST_WAIT:
            raise RateLimited(f"{NAME} allows the next {endpoint} in {wait:.0f} s", retry_after=wait)
        await turns.turn()
        if self._setup.shared is not None and endpoint in _CALLED_BY_ANY:
            await self._setup.shared.turn(endpoint, *turns.rate)

    def _heed(self, endpoint: str, limited: RateLimited, reply: Reply) -> None:
        turns = self._turns[endpoint]
        if isinstance(turns, Pace):  # first, because `hold` subtracts the interval
            learnt = min(reply.named_interval() or 0.0, LONGEST_LEARNT)
            turns.interval = max(turns.interval, learnt * MARGIN)
        turns.hold(limited.retry_after or 0.0)
        if self._setup.shared is not None and endpoint in _CALLED_BY_ANY:
            self._setup.shared.hold(endpoint, limited.retry_after or 0.0)


class Pages:
    """Limits the pages and the time of one read, so that it ends whatever the answers are."""

    def __init__(self, clock: Clock, what: str, *, most: int, seconds: float) -> None:
        """At most `most` pages of `what` within `seconds`.

        With a fast clock the limit is `seconds` of real time, because answers take real time.
        """
        self.number = 1
        self._clock = clock
        self._what = what
        self._most = most
        self._began = clock.monotonic()
        self._seconds = seconds * max(1.0, clock.scale)
        self._tokens: set[str] = set()

    def allow(self, seconds: float) -> None:
        """Raise the time limit to `seconds`, because more pages are known to follow. It is never lowered."""
        self._seconds = max(self._seconds, seconds * max(1.0, self._clock.scale))

    def real_seconds_left(self, wait: float) -> float:
        """The real seconds left for the next request after a wait. Raises ProviderUnavailable if there are none."""
        left = self._began + self._seconds - self._clock.monotonic() - wait
        if left <= 0:
            raise ProviderUnavailable(f"{NAME} has not listed all {self._what} within {self._seconds:.0f} s")
        return left / self._clock.scale

    def turn_to(self, token: str) -> None:
        """Go to the next page. Raises ProviderUnavailable for a repeated page, or for too many pages."""
        if token in self._tokens:
            raise ProviderUnavailable(f"{NAME} lists the same {self._what} again")
        if self.number >= self._most:
            raise ProviderUnavailable(f"{NAME} lists too many {self._what}: more than {self._most} pages")
        self._tokens.add(token)
        self.number += 1
