"""HTTP responses: answers, errors in the contract's body format, and the headers of every response.

One table maps the gRPC code to the HTTP status. A response never contains the text of an exception.
"""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import msgspec
from aiohttp import ETag, hdrs, web
from google.protobuf.json_format import MessageToDict

from gpuproxy.edge.messages import json_codec
from gpuproxy.edge.rpc.rpcs import Answer, Ready
from gpuproxy.edge.rpc.status import code_of, status_of
from gpuproxy.model.errors import Refusal, Unavailable
from gpuproxy.model.reasons import Reason

TRACE_ID = "X-Trace-Id"
JSON_TYPE = "application/json"
CODES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
BY_REASON: Mapping[Reason, int] = {
    Reason.BUDGET_EXCEEDED: 402,
    Reason.METHOD_NOT_ALLOWED: 405,
    Reason.POOL_STATE: 409,
}
"""HTTP statuses that depend on the reason instead of the gRPC code."""
HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    hdrs.CACHE_CONTROL: "no-store",
}
"""Default headers of every response."""

_MIN_COMPRESSED_BYTES = 1024
_THREAD_COMPRESSED_BYTES = 64 * 1024
_MIN_CACHED_BYTES = 16 * 1024
_MAX_CACHED = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error in the form that the response body has."""

    code: int
    status: str
    reason: str
    message: str
    details: Sequence[Any] = ()
    retry_after: float | None = None
    """Seconds."""
    headers: Mapping[str, str] = field(default_factory=dict)


def problem_of(refusal: Refusal) -> Problem:
    """The refusal as an HTTP error; gRPC clients get the same message and details."""
    code = code_of(refusal)
    status = status_of(refusal)
    number = BY_REASON.get(refusal.reason, CODES[code])
    return Problem(
        code=number,
        status=code.name,
        reason=refusal.reason,
        message=status.message,
        details=[MessageToDict(detail, preserving_proto_field_name=True) for detail in status.details],
        retry_after=refusal.retry_after if isinstance(refusal, Unavailable) else None,
        headers={hdrs.WWW_AUTHENTICATE: "Bearer"} if number == 401 else {},
    )


def refused(problem: Problem, trace_id: str) -> web.Response:
    """The response of an error."""
    headers = {TRACE_ID: trace_id, **problem.headers}
    if problem.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(problem.retry_after)))
    body = error_body(problem, trace_id)
    return web.Response(status=problem.code, body=body, content_type=JSON_TYPE, headers=headers)


def error_body(problem: Problem, trace_id: str) -> bytes:
    """The error in JSON."""
    body = {
        "error": {
            "code": problem.code,
            "status": problem.status,
            "reason": problem.reason,
            "message": problem.message,
            "details": problem.details,
            "trace_id": trace_id,
        }
    }
    return msgspec.json.encode(body)


def body_of(answer: Answer) -> bytes:
    """The answer in JSON."""
    if isinstance(answer, Ready):
        return answer.json()
    return answer if isinstance(answer, bytes) else json_codec.encode(answer)


class Tags:
    """Entity tags of response bodies. The tags of large bodies that are sent repeatedly are cached."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[bytes, str]] = OrderedDict()

    def of(self, body: bytes) -> str:
        """The tag of a body; different bodies have different tags."""
        known = self._known.get(id(body))  # the id stays unique while the body is kept here
        if known is not None:
            return known[1]
        tag = hashlib.blake2b(body, digest_size=12).hexdigest()
        if len(body) >= _MIN_CACHED_BYTES:
            self._known[id(body)] = body, tag
            if len(self._known) > _MAX_CACHED:
                self._known.popitem(last=False)
        return tag


def answered(request: web.Request, body: bytes, *, status: int, trace_id: str, tags: Tags) -> web.Response:
    """The response of an answer.

    A GET gets an entity tag, is compressed if the client accepts gzip, and is 304 if the client already has the body.
    """
    if request.method != hdrs.METH_GET:
        return web.Response(status=status, body=body, content_type=JSON_TYPE, headers={TRACE_ID: trace_id})
    headers = {TRACE_ID: trace_id, hdrs.CACHE_CONTROL: "private, no-cache", hdrs.VARY: "Accept-Encoding"}
    tag = tags.of(body)
    if hdrs.IF_NONE_MATCH in request.headers and _has(request, tag):
        response = web.Response(status=304, headers=headers)
    else:
        response = web.Response(
            status=status,
            body=body,
            content_type=JSON_TYPE,
            headers=headers,
            zlib_executor_size=_THREAD_COMPRESSED_BYTES,
        )
        if len(body) >= _MIN_COMPRESSED_BYTES and _takes_gzip(request):
            response.enable_compression(web.ContentCoding.gzip)
    response.etag = ETag(value=tag, is_weak=True)
    return response


def _has(request: web.Request, tag: str) -> bool:
    known = request.if_none_match or ()
    return any(each.value in (tag, "*") for each in known)


def _takes_gzip(request: web.Request) -> bool:
    """True if Accept-Encoding lists `gzip` and doesn't refuse it with q=0."""
    for part in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() == "gzip":
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
