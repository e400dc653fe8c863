"""The server's errors as Python exceptions: one class for each error that a caller handles differently.

GPUProxyError                     code, reason, metadata, violations, retry_after, trace_id, request_id
├─ InvalidArgument                correct the fields that `violations` names
│  └─ WrongArgument               also a ValueError; nothing was sent
├─ Unauthenticated  PermissionDenied  NotFound  NotBuilt  TooManyCalls
├─ AlreadyExists                  the request id belongs to another demand
├─ FailedPrecondition
│  ├─ NotEnoughGPUs               nothing was rented
│  └─ NotAllReserved              fewer GPUs than required; all of them were released
├─ CreationFailed                 every create failed for certain; nothing is rented
├─ Unavailable                    retry with the same request id, after `retry_after` seconds if it is set
├─ DeadlineExceeded               retry with the same request id; it finds what was rented
└─ NotReady                       a reservation ended before its machines were ready
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

_STATUS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The details of an error. `retry_after` is in seconds; None if the server gave none."""

    code: str
    message: str
    reason: str = ""
    trace_id: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None

    def as_text(self) -> str:
        """The message, one line for each invalid field, then the reason and the trace id."""
        lines = [self.message or self.code]
        texts = [f"{field}: {description}" for field, description in self.violations]
        # The server may have truncated a description, so only its beginning is compared.
        lines += [f"  {text}" for text in texts if not self.message.startswith(text.removesuffix("…"))]
        marks = [f"reason {self.reason}" if self.reason else "", f"trace {self.trace_id}" if self.trace_id else ""]
        if any(marks):
            lines.append("(" + ", ".join(mark for mark in marks if mark) + ")")
        return "\n".join(lines)

    def as_json(self) -> str:
        """The error as JSON, similar to the body of an HTTP error."""
        body = {
            "status": self.code,
            "reason": self.reason,
            "message": self.message,
            "trace_id": self.trace_id,
            "field_violations": [{"field": name, "description": text} for name, text in self.violations],
            "metadata": dict(self.metadata),
        }
        return json.dumps({"error": body}, ensure_ascii=False)


class GPUProxyError(Exception):
    """A call failed. `request_id` is the request id of the call; "" if it had none."""

    def __init__(self, refusal: Refusal, request_id: str = "") -> None:
        super().__init__(refusal.as_text())
        self.refusal = refusal
        self.request_id = request_id

    @property
    def code(self) -> str:
        """The gRPC status: "UNAVAILABLE"."""
        return self.refusal.code

    @property
    def reason(self) -> str:
        """A constant from docs/api.md such as "NOT_ENOUGH_GPUS"; "" if the error doesn't come from the server."""
        return self.refusal.reason

    @property
    def metadata(self) -> Mapping[str, str]:
        """The variable parts of the message, by name."""
        return dict(self.refusal.metadata)

    @property
    def violations(self) -> Mapping[str, str]:
        """The description of what is wrong, by field."""
        return dict(self.refusal.violations)

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before a retry; None if the server gave none."""
        return self.refusal.retry_after

    @property
    def trace_id(self) -> str:
        """The trace id of the call in the server's log."""
        return self.refusal.trace_id


class InvalidArgument(GPUProxyError):
    """The request is invalid; a retry can't succeed."""


class WrongArgument(InvalidArgument, ValueError):
    """An argument can't be sent. Nothing was sent. `violations` names the argument."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(Refusal(code="INVALID_ARGUMENT", message=f"{name}: {text}", violations=((name, text),)))


class Unauthenticated(GPUProxyError):
    """The API key is missing or not valid."""


class PermissionDenied(GPUProxyError):
    """The role of the API key does not allow the call."""


class NotFound(GPUProxyError):
    """The resource does not exist in the key's project."""


class AlreadyExists(GPUProxyError):
    """The request id was already used for a different demand."""


class FailedPrecondition(GPUProxyError):
    """The current state does not allow the call; `reason` says what must change first."""


class NotEnoughGPUs(FailedPrecondition):
    """Fewer GPUs are available than requested. Nothing was rented."""


class NotAllReserved(FailedPrecondition):
    """Fewer GPUs than required could be rented. All of them were released."""


class CreationFailed(GPUProxyError):
    """Every create failed for certain. Nothing is rented."""


class TooManyCalls(GPUProxyError):
    """The server has too many concurrent calls."""


class Unavailable(GPUProxyError):
    """The server can't be reached or can't answer now. A retry with the same request id never rents twice."""


class DeadlineExceeded(GPUProxyError):
    """The deadline passed. A retry with the same request id finds what was rented."""


class NotBuilt(GPUProxyError):
    """The server does not implement this call."""


class NotReady(GPUProxyError):
    """The reservation ended before its machines were ready; `reason` is the reason of the reservation."""


_BY_REASON = {
    "NOT_ENOUGH_GPUS": NotEnoughGPUs,
    "NOT_ALL_RESERVED": NotAllReserved,
    "INSTANCE_CREATION_FAILED": CreationFailed,
}
_BY_CODE = {
    "INVALID_ARGUMENT": InvalidArgument,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": PermissionDenied,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "RESOURCE_EXHAUSTED": TooManyCalls,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "UNIMPLEMENTED": NotBuilt,
}


def error_of(error: grpc.RpcError, request_id: str = "") -> GPUProxyError:
    """The exception of a failed call."""
    refusal = refusal_of(error)
    kind = _BY_REASON.get(refusal.reason) or _BY_CODE.get(refusal.code) or GPUProxyError
    return kind(refusal, request_id)


def refusal_of(error: grpc.RpcError) -> Refusal:
    """The status, message and details of a failed call, on a blocking or an asyncio channel."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return Refusal(code="UNKNOWN", message=str(error))
    trailers = {key: value for key, value in error.trailing_metadata() or ()}  # noqa: C416 - dict() doesn't accept grpc's type
    reason, metadata, violations, retry_after = "", {}, [], None
    for detail in _details(trailers.get(_STATUS)):
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations = [(violation.field, violation.description) for violation in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return Refusal(
        code=error.code().name,
        message=error.details() or "",
        reason=reason,
        trace_id=str(trailers.get("x-trace-id", "")),
        violations=tuple(violations),
        metadata=tuple(sorted(metadata.items())),
        retry_after=retry_after,
    )


def _details(raw: str | bytes | None) -> "Status.details":
    try:
        return Status.FromString(raw).details if isinstance(raw, bytes) else ()
    except DecodeError:
        return ()
