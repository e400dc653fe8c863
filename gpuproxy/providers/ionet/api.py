"""Calls of io.net's API. Each call keeps its interval and is sent once.

The rule: an answer without exactly the requested content is an error. Other modules decide what an answer means.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from gpuproxy.model.errors import OutcomeUnknown, ProviderUnavailable, RateLimited, Refused
from gpuproxy.ports import HttpNotSent, HttpReplyLost, HttpRequest, ProviderSetup
from gpuproxy.ports.pacing import MARGIN, Pace
from gpuproxy.providers.decode import Unreadable
from gpuproxy.providers.ionet.errors import Reply, unread
from gpuproxy.providers.ionet.wire import NAME

T = TypeVar("T")

BASE_URL = "https://api.io.solutions"
PATH = "/enterprise/v1/io-cloud/vmaas"
TIMEOUTS: Mapping[str, float] = {"search": 30.0, "create": 30.0, "call": 30.0}
_MOST_BYTES = 16 * 1024 * 1024
_INLINE_BYTES = 262_144
"""Answers up to this size are decoded on the loop, larger ones by the workers."""
_LONGEST_WAIT = 120.0
_CALLED_BY_ANY = frozenset({"search"})
"""The endpoints that a process calls although another one supervises the account."""
_PENALTY = 2.0
"""Seconds without calls of one kind after a 429 that names no time."""


class IoNetApi:
    """The calls of one account."""

    def __init__(self, setup: ProviderSetup, intervals: Mapping[str, float]) -> None:
        """`intervals`: minimum seconds between two calls, by endpoint. The caller paces creates."""
        self.timeouts = {**TIMEOUTS, **setup.timeouts}
        self._setup = setup
        self._url = (setup.base_url or BASE_URL).rstrip("/") + PATH
        self._paces = {
            name: Pace(setup.clock, seconds * MARGIN) for name, seconds in intervals.items() if name != "create"
        }

    async def read(self, endpoint: str, path: str, *, within: float | None = None) -> Reply:
        """The answer to a GET. `within`: maximum time in real seconds. Raises ProviderUnavailable without an answer."""
        await self._turn(endpoint)
        request = self._request(endpoint, "GET", path, None)
        if within is not None:
            request = replace(request, timeout=min(request.timeout, within))
        try:
            return await self._sent(request)
        except (HttpNotSent, HttpReplyLost) as error:
            raise ProviderUnavailable(f"{NAME} did not answer: {error}") from error

    async def change(
        self,
        endpoint: str,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        what: str,
        secrets: Sequence[str] = (),
        within: float | None = None,
    ) -> Reply:
        """The answer to a request with effects, which is sent once. `what` names it in errors.

        Raises OutcomeUnknown if the answer is lost, and ProviderUnavailable if certainly nothing was sent.
        """
        await self._turn(endpoint)
        request = self._request(endpoint, method, path, body)
        if within is not None:
            request = replace(request, timeout=min(request.timeout, within))
        try:
            reply = await self._sent(request, secrets)
        except HttpNotSent as error:
            raise ProviderUnavailable(f"{NAME} can't be reached: {error}") from error
        except HttpReplyLost as error:
            raise OutcomeUnknown(f"the answer to {what} was lost: {error}") from error
        if reply.status == 429:
            self._heed(endpoint, unread(reply))
        return reply

    async def decoded(self, endpoint: str, reply: Reply, decode: Callable[..., T], *args: Any) -> T:
        """`decode(body, *args)` for status 200. Otherwise, or if it can't be decoded, raises the error of `unread`."""
        body = reply.response.body
        if reply.status != 200:
            raise self.unread(endpoint, reply)
        try:
            if len(body) <= _INLINE_BYTES:
                return decode(body, *args)
            return await self._setup.workers.run(decode, body, *args)
        except Unreadable as error:
            raise self.unread(endpoint, reply) from error

    def unread(self, endpoint: str, reply: Reply) -> Refused:
        """The error for an unusable answer to a read. If it is a rate limit, later calls keep it."""
        error = unread(reply)
        self._heed(endpoint, error)
        return error

    def wait(self, endpoint: str) -> float:
        """The seconds until the next call may be sent."""
        return self._paces[endpoint].wait()

    async def _sent(self, request: HttpRequest, secrets: Sequence[str] = ()) -> Reply:
        """Send the request; nothing else sends. Raises the errors of the Http port."""
        sent_at = self._setup.clock.monotonic()
        response = await self._setup.http.send(request)
        return Reply(
            response=response,
            received_at=self._setup.clock.now(),
            sent_at=sent_at,
            secrets=(self._setup.key, *secrets),
        )

    def _request(self, endpoint: str, method: str, path: str, body: Mapping[str, object] | None) -> HttpRequest:
        headers = {"x-api-key": self._setup.key, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return HttpRequest(
            method=method,
            url=self._url + path,
            headers=headers,
            body=None if body is None else msgspec.json.encode(body),
            timeout=self.timeouts.get(endpoint, self.timeouts["call"]),
            max_bytes=_MOST_BYTES,
        )

    async def _turn(self, endpoint: str) -> None:
        """Wait until the next call may be sent. Raises RateLimited if that would take too long."""
        if (pace := self._paces.get(endpoint)) is None:
            return
        if (wait := pace.wait()) > _LONGEST_WAIT:
            raise RateLimited(f"{NAME} allows the next {endpoint} in {wait:.0f} s", retry_after=wait)
        await pace.turn()
        if self._setup.shared is not None and endpoint in _CALLED_BY_ANY:
            await self._setup.shared.turn(endpoint, *pace.rate)

    def _heed(self, endpoint: str, error: Refused) -> None:
        pace = self._paces.get(endpoint)
        if pace is not None and isinstance(error, RateLimited):
            seconds = _PENALTY if error.retry_after is None else error.retry_after
            pace.hold(seconds)
            if self._setup.shared is not None and endpoint in _CALLED_BY_ANY:
                self._setup.shared.hold(endpoint, seconds)
