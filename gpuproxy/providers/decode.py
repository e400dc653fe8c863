"""Tolerant decoding of JSON: an unreadable text or number loses only its own field, never the row or the page.

The rule: try the fast decoder first. If it fails, repair the JSON, with BROKEN in place of unreadable values. BROKEN is
never null, because "unreadable" must not be taken for "none". Other modules decide what the fields mean.
"""

import json
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeVar

import msgspec

from gpuproxy.model.money import Micro, micro

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

Unreadable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""The errors that a decoder raises for bytes that it can't decode."""
BROKEN = "\ufffd"
"""Replaces an unreadable character or number."""
ABSURD = 1_000_000.0
"""An amount in USD that no machine costs."""
MOST_GPUS = 64
"""Maximum GPUs of one offer."""
MOST_VRAM_MB = 1 << 20
"""Maximum memory of one GPU."""
_LONGEST_NUMBER = 25
_ROWS_AT = 2
"""The depth of the rows in a page."""
_MOST_REPAIRED = 16 * 1024 * 1024
"""Maximum size in bytes: a repair needs several times as much memory."""


def decoded(body: bytes, kind: type[T]) -> tuple[T, bool]:
    """The body as `kind`, and whether it was repaired. Raises one of Unreadable if it is not a `kind`."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False), False
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(repaired(body), type=kind, strict=False), True


def repaired(body: bytes) -> bytes:
    """The document as strictly valid JSON. Raises one of Unreadable if the body is not JSON."""
    if len(body) > _MOST_REPAIRED:
        raise msgspec.DecodeError(f"more than {_MOST_REPAIRED} bytes to repair")
    try:
        loose = json.loads(
            body.decode("utf-8-sig", "replace"),
            strict=False,
            parse_constant=lambda _: BROKEN,
            parse_float=_finite,
            parse_int=_of_sane_length,
            object_pairs_hook=_object,
        )
    except ValueError as error:
        raise msgspec.DecodeError(f"no JSON: {type(error).__name__}") from error
    return _dumped(loose).encode("utf-8", "surrogatepass").decode("utf-8", "replace").encode()


def fields_of(body: bytes | msgspec.Raw) -> tuple[dict[str, object], bool]:
    """An object's fields, and whether it was repaired. Raises one of Unreadable if it is not an object."""
    try:
        return msgspec.json.decode(body, type=dict[str, object]), False
    except Unreadable:
        return msgspec.json.decode(repaired(bytes(body)), type=dict[str, object]), True


def typed(row: bytes | msgspec.Raw, kind: type[S], decoder: msgspec.json.Decoder[S]) -> tuple[S, bool]:
    """A row, and whether it was repaired. An unreadable optional field has its default.

    Raises one of Unreadable if a required field can't be read.
    """
    try:
        return decoder.decode(row), False
    except Unreadable:
        loose, mended = fields_of(row)
    kept: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        try:
            kept[field.name] = converted(loose[field.encode_name], field.type)
        except (KeyError, msgspec.ValidationError):
            if field.required:
                raise msgspec.ValidationError(f"no usable {field.encode_name}") from None
    return kind(**kept), mended


def converted(value: object, kind: Any) -> Any:
    """The value as `kind`; numbers are also read from texts, and texts from whole numbers. Raises ValidationError."""
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        if (number := whole_number(value)) is None:
            raise
    try:
        return msgspec.convert(number, kind, strict=False)
    except msgspec.ValidationError:
        return msgspec.convert(str(number), kind, strict=False)


def whole_number(value: object) -> int | None:
    """A positive whole number, also from a text or from a float without a fraction; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    elif isinstance(value, str):
        text = value.strip()
        value = int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None
    return value if isinstance(value, int) and 0 < value < 2**63 else None


def token_of(value: str | int | None) -> str | None:
    """The token of the next page. None, also for an empty text: this page is the last one."""
    return None if value in (None, "") else str(value)


def price(dollars: float | None) -> Micro | None:
    """The price in micro-dollars. None if it is impossible: one wrong row must not fail the whole listing."""
    return micro(dollars) if dollars is not None and 0 <= dollars < ABSURD else None


def percent(share: float | None) -> float | None:
    """The share in percent, at most 100; None if the number is not a share."""
    return min(share, 100.0) if share is not None and 0 <= share < ABSURD else None


def date(epoch: float | None) -> datetime | None:
    """The time in UTC; None if the number is not a date."""
    if not epoch:
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _dumped(value: object, depth: int = 0) -> str:
    """The value as JSON, one row at a time, because a single call for the whole page would block other threads."""
    if depth < _ROWS_AT and isinstance(value, dict):
        fields = (f"{json.dumps(name, ensure_ascii=False)}:{_dumped(each, depth + 1)}" for name, each in value.items())
        return "{" + ",".join(fields) + "}"
    if depth < _ROWS_AT and isinstance(value, list):
        return "[" + ",".join(_dumped(each, depth + 1) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A dict of the pairs. As a Python function, it lets other threads run at each object of a large document."""
    return dict(pairs)


def _finite(text: str) -> float | str:
    number = float(text)
    return number if isfinite(number) else BROKEN


def _of_sane_length(text: str) -> int | str:
    return int(text) if len(text) <= _LONGEST_NUMBER else BROKEN
