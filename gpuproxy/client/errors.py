"""What the server's errors are in Python: a class for each thing that a caller would do differently.

GPUProxyError                     code, reason, metadata, violations, retry_after, trace_id, request_id
├─ InvalidArgument                correct the fields that `violations` names
│  └─ WrongArgument               a ValueError too: nothing was sent
├─ Unauthenticated  PermissionDenied  NotFound  NotBuilt  TooManyCalls
├─ AlreadyExists                  the request id belongs to another demand
├─ FailedPrecondition
│  ├─ NotEnoughGPUs               nothing was rented
│  └─ NotAllReserved              fewer than wanted; everything was given back
├─ CreationFailed                 every create is proven failed; nothing is rented
├─ Unavailable                    repeat with the same request id, after `retry_after` where there is one
├─ DeadlineExceeded               repeat with the same request id: what exists is found by it
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
    """An error of the server's, as clients see it. `retry_after` is in seconds, None where the server names none."""

    code: str
    message: str
    reason: str = ""
    trace_id: str = ""
    violations: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None

    def as_text(self) -> str:
        """The message, each bad field on a line of its own, reason and trace id last."""
        lines = [self.message or self.code]
        said = [f"{field}: {description}" for field, description in self.violations]
        lines += [f"  {text}" for text in said if not self.message.startswith(text.removesuffix("…"))]  # some are cut
        marks = [f"reason {self.reason}" if self.reason else "", f"trace {self.trace_id}" if self.trace_id else ""]
        if any(marks):
            lines.append("(" + ", ".join(mark for mark in marks if mark) + ")")
        return "\n".join(lines)

    def as_json(self) -> str:
        """The form that errors have over HTTP."""
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
    """A call did not do what was asked. `request_id` is the one that the call carried, "" where it had none."""

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
        """A constant of docs/api.md: "NOT_ENOUGH_GPUS"; "" for an error that is not the server's own."""
        return self.refusal.reason

    @property
    def metadata(self) -> Mapping[str, str]:
        """What varies in the message."""
        return dict(self.refusal.metadata)

    @property
    def violations(self) -> Mapping[str, str]:
        """What is wrong with which field."""
        return dict(self.refusal.violations)

    @property
    def retry_after(self) -> float | None:
        """Seconds, where the server names them."""
        return self.refusal.retry_after

    @property
    def trace_id(self) -> str:
        """What the server's log has the call under."""
        return self.refusal.trace_id


class InvalidArgument(GPUProxyError):
    """The request is wrong whatever the state of the world."""


class WrongArgument(InvalidArgument, ValueError):
    """An argument that no request can carry: nothing was sent. `violations` names it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(Refusal(code="INVALID_ARGUMENT", message=f"{name}: {text}", violations=((name, text),)))


class Unauthenticated(GPUProxyError):
    """No valid key."""


class PermissionDenied(GPUProxyError):
    """The key's role does not allow it."""


class NotFound(GPUProxyError):
    """There is no such thing in the key's project."""


class AlreadyExists(GPUProxyError):
    """The request id belongs to another demand."""


class FailedPrecondition(GPUProxyError):
    """Something else has to change first; `reason` says what."""


class NotEnoughGPUs(FailedPrecondition):
    """Fewer can be had at once than asked for; nothing was rented."""


class NotAllReserved(FailedPrecondition):
    """Fewer than `min_count`, or than all, could be kept; everything was given back."""


class CreationFailed(GPUProxyError):
    """Every create is proven failed; nothing is rented."""


class TooManyCalls(GPUProxyError):
    """The server is asked too much at once."""


class Unavailable(GPUProxyError):
    """Nobody answers, or not now. Repeated with the same request id it rents nothing twice."""


class DeadlineExceeded(GPUProxyError):
    """The time was over. What exists is found by the request id."""


class NotBuilt(GPUProxyError):
    """The server does not have this call."""


class NotReady(GPUProxyError):
    """The reservation ended before its machines were ready; `reason` is the reservation's own."""


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
    """The exception for a failed call."""
    refusal = refusal_of(error)
    kind = _BY_REASON.get(refusal.reason) or _BY_CODE.get(refusal.code) or GPUProxyError
    return kind(refusal, request_id)


def refusal_of(error: grpc.RpcError) -> Refusal:
    """The status, message and details of a failed call, of a blocking channel or of asyncio's."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return Refusal(code="UNKNOWN", message=str(error))
    trailers = {key: value for key, value in error.trailing_metadata() or ()}  # noqa: C416 - not a mapping of dict's
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
