"""Tolerant decoding: a broken text or number costs its own field, never the row or the page around it.

The rule: the fast decoder first; where it fails, the JSON is repaired, with BROKEN in the place of what can't be read.
BROKEN is never null: "can't be read" must not be taken for "has none". What the fields mean is not decided here.
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
"""All that a decoder raises for bytes that it can't make sense of."""
BROKEN = "\ufffd"
"""Stands for a character, or a number, that can't be read."""
ABSURD = 1_000_000.0
"""USD that no machine costs."""
_LONGEST_NUMBER = 25
_ROWS_AT = 2
"""How deep in a page its rows are."""
_MOST_REPAIRED = 16 * 1024 * 1024
"""Bytes: a repair takes several times as much memory."""


def decoded(body: bytes, kind: type[T]) -> tuple[T, bool]:
    """The body as `kind`, and whether it had to be repaired. Raises one of Unreadable when it is no such thing."""
    try:
        return msgspec.json.decode(body, type=kind, strict=False), False
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(repaired(body), type=kind, strict=False), True


def repaired(body: bytes) -> bytes:
    """The same document as JSON that every decoder takes. Raises one of Unreadable when it is no JSON at all."""
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
    """An object's fields, and whether it had to be repaired. Raises one of Unreadable when it is no object."""
    try:
        return msgspec.json.decode(body, type=dict[str, object]), False
    except Unreadable:
        return msgspec.json.decode(repaired(bytes(body)), type=dict[str, object]), True


def typed(row: bytes | msgspec.Raw, kind: type[S], decoder: msgspec.json.Decoder[S]) -> tuple[S, bool]:
    """A row, and whether it had to be repaired: only a required field that can't be read fails it.

    An optional field that can't be read has its default.
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
    """Numbers in texts are numbers, and whole numbers are texts where a text is wanted. Raises ValidationError."""
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
    """A positive id or count, also as a text or as a float without a fraction; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    elif isinstance(value, str):
        text = value.strip()
        value = int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None
    return value if isinstance(value, int) and 0 < value < 2**63 else None


def price(dollars: float | None) -> Micro | None:
    """None for what can't be a price: one odd row must not keep the whole account from being looked after."""
    return micro(dollars) if dollars is not None and 0 <= dollars < ABSURD else None


def date(epoch: float | None) -> datetime | None:
    """Aware UTC; None for what is no date."""
    if not epoch:
        return None
    try:
        return datetime.fromtimestamp(epoch, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _dumped(value: object, depth: int = 0) -> str:
    """The value as JSON, a row at a time: in a thread, one call for the whole page would keep the others waiting."""
    if depth < _ROWS_AT and isinstance(value, dict):
        fields = (f"{json.dumps(name, ensure_ascii=False)}:{_dumped(each, depth + 1)}" for name, each in value.items())
        return "{" + ",".join(fields) + "}"
    if depth < _ROWS_AT and isinstance(value, list):
        return "[" + ",".join(_dumped(each, depth + 1) for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A function of Python's: in a thread, it lets the others run once for each object of a large document."""
    return dict(pairs)


def _finite(text: str) -> float | str:
    number = float(text)
    return number if isfinite(number) else BROKEN


def _of_sane_length(text: str) -> int | str:
    return int(text) if len(text) <= _LONGEST_NUMBER else BROKEN
