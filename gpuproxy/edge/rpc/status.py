"""Refusals on the wire: their gRPC status code and the google.rpc.Status.

Clients reject trailers above 8 kB and then report a different error. The trailers contain the message twice (once
with each non-ASCII byte tripled) and the Status in base64. Therefore the Status stays below `MAX_BYTES`: texts and
metadata are truncated, and violations are dropped if necessary. The texts themselves come from `model.errors`.
"""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gpuproxy.model import errors

DOMAIN = "gpuproxy.v1"
MAX_BYTES = 4608
"""6 kB in base64."""
MAX_VIOLATIONS = 50
_MAX_MESSAGE = 900
_MAX_DESCRIPTION = 120
_MAX_FIELD = 64
_MAX_METADATA = 1536
_MAX_VALUE = 200


def code_of(refusal: errors.Refusal) -> grpc.StatusCode:
    """The gRPC code of a refusal, which its reason determines."""
    return grpc.StatusCode[refusal.reason.meaning.status or grpc.StatusCode.INTERNAL.name]


def status_of(refusal: errors.Refusal) -> status_pb2.Status:
    """The google.rpc.Status: always an ErrorInfo, and BadRequest or RetryInfo where the class needs it."""
    violations = refusal.violations[:MAX_VIOLATIONS] if isinstance(refusal, errors.InvalidArgument) else ()
    status = _status(refusal, violations)
    while violations and status.ByteSize() > MAX_BYTES:
        violations = violations[:-1]
        status = _status(refusal, violations)
    return status


def _status(refusal: errors.Refusal, violations: Sequence[errors.Violation]) -> status_pb2.Status:
    info = error_details_pb2.ErrorInfo(
        reason=_cut(refusal.reason, _MAX_FIELD), domain=DOMAIN, metadata=_metadata(refusal)
    )
    details = [_packed(info)]
    if violations:
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[_violation(v) for v in violations])))
    if isinstance(refusal, errors.Unavailable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(refusal.retry_after * 1000))
        details.append(_packed(retry))
    return status_pb2.Status(
        code=code_pb2.Code.Value(code_of(refusal).name), message=_message(refusal.message), details=details
    )


def _metadata(refusal: errors.Refusal) -> dict[str, str]:
    """The first entries of the metadata that fit into the limit."""
    room = _MAX_METADATA
    kept: dict[str, str] = {}
    for key, value in refusal.metadata.items():
        short_key, short_value = _cut(key, _MAX_FIELD), _cut(value, _MAX_VALUE)
        room -= len(short_key.encode()) + len(short_value.encode()) + 8
        if room < 0:
            break
        kept[short_key] = short_value
    return kept


def _message(text: str) -> str:
    short = _cut(text, _MAX_MESSAGE)
    return short if short.isascii() and "%" not in short else _cut(text, _MAX_MESSAGE // 2)


def _cut(text: str, length: int) -> str:
    """The text in at most `length` bytes of UTF-8; a truncated text ends with an ellipsis."""
    raw = text.encode()
    return text if len(raw) <= length else raw[: length - 3].decode(errors="ignore") + "…"


def _violation(violation: errors.Violation) -> Any:
    return error_details_pb2.BadRequest.FieldViolation(
        field=_cut(violation.field, _MAX_FIELD), description=_cut(violation.description, _MAX_DESCRIPTION)
    )


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
