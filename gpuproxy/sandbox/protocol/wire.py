"""HTTP parts for all dialects: a parsed request, and answers.

A dialect is a function from a request to a response on the market. This file knows HTTP, not marketplaces.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from gpuproxy.ports import HttpRequest, HttpResponse

_JSON = {"content-type": "application/json"}  # exactly this: with a charset, the official command line shows nothing
_TEXT = {"content-type": "text/html; charset=utf-8"}
EVENTS = "text/event-stream"
_PAGE = (
    "<html>\n<head><title>{0}</title></head>\n<body>\n<center><h1>{0}</h1></center>\n"
    "<hr><center>nginx</center>\n</body>\n</html>\n"
)
_REASONS = {
    404: "Not Found",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Time-out",
}


class BadBody(Exception):
    """The body is not a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A parsed request. `path` has no slash at its end; `headers` have lower-case names."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    """The names that occur more than once in the query."""
    key: str | None = None
    """The caller's API key. A dialect fills it in: each marketplace takes it from another place."""
    origin: str = ""
    """The address that the caller used: scheme, host and port."""

    def json(self) -> dict[str, Any]:
        """The body as an object; {} for an empty body. Raises BadBody."""
        return json_object(self.body)


def incoming(request: HttpRequest) -> Incoming:
    """Parse a request; the key is not known yet."""
    url, pairs, repeated = _parsed(request.url)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Incoming(
        method=request.method.upper(),
        path=url.path.rstrip("/") or "/",
        query=dict(pairs),
        body=request.body or b"",
        headers=headers,
        repeated=repeated,
        origin=f"{url.scheme or 'http'}://{url.netloc or headers.get('host', '')}",
    )


@lru_cache(maxsize=256)
def _parsed(url: str) -> tuple[SplitResult, tuple[tuple[str, str], ...], frozenset[str]]:
    """The parts of a URL, its query, and the names that are more than once in it. Most callers repeat their URLs."""
    parts = urlsplit(url)
    pairs = tuple(parse_qsl(parts.query, keep_blank_values=True))
    counted = Counter(name for name, _ in pairs)
    return parts, pairs, frozenset(name for name, count in counted.items() if count > 1)


def json_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object in a text; {} for an empty text. Raises BadBody."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise BadBody from error
    if not isinstance(value, dict):
        raise BadBody
    return value


def answer(value: object, status: int = 200) -> HttpResponse:
    """An answer with a value as JSON."""
    return HttpResponse(status=status, headers=_JSON, body=json.dumps(value, separators=(",", ":")).encode())


def raw_answer(body: bytes, status: int = 200) -> HttpResponse:
    """An answer with encoded JSON."""
    return HttpResponse(status=status, headers=_JSON, body=body)


def stream_answer(text: str) -> HttpResponse:
    """An answer with server-sent events. The HTTP server sends it in small pieces."""
    return HttpResponse(status=200, headers={"content-type": EVENTS}, body=text.encode())


def text_answer(text: str, status: int, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """An answer with text instead of JSON."""
    return HttpResponse(status=status, headers={**_TEXT, **(headers or {})}, body=text.encode())


def page_answer(status: int) -> HttpResponse:
    """The HTML error page of a gateway in front of the service."""
    return text_answer(_PAGE.format(f"{status} {_REASONS.get(status, 'Error')}"), status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that a dialect has recognised. `name` is the call's name in the control API."""

    provider: str
    name: str
    request: Incoming
    arguments: Mapping[str, str] = field(default_factory=dict)
    """The values from the path."""
