"""The HTTP port: calls to a marketplace."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request. `timeout` limits the whole exchange, body included, in real seconds."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout: float = 30.0
    max_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """One response. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpNotSent(Exception):
    """No byte of the request can have reached the server."""


class HttpReplyLost(Exception):
    """The request may have been executed, but there is no complete response."""


class Http(Protocol):
    """One request, one response. No request is sent twice, and no redirect is followed for a request with effects."""

    async def send(self, request: HttpRequest) -> HttpResponse:
        """The response, whatever its status. Raises HttpNotSent or HttpReplyLost."""
