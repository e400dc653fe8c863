"""Encodes messages to JSON and decodes JSON to messages, in the contract's format.

Names are those of the proto, numbers are JSON numbers, and absent fields are null. protobuf's own JSON mapping encodes
64-bit integers as strings, reads "1.5" as a number, and doesn't say where an error is. Here all errors of a request are
reported together, each with its field. Only types are checked here, not the allowed values.
"""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gpuproxy.edge.messages.json_values import Field, is_map, is_time, plain
from gpuproxy.edge.messages.violations import Violations, shown
from gpuproxy.model.errors import InvalidArgument, Violation

SPANS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
MAX_ENTRIES = 4096
"""Entries of a list or a map. No field of a valid request has so many."""
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PERIOD = re.compile(r"(-?)(\d{1,12})(?:\.(\d{1,9}))?([smhd])", re.ASCII)
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,20}", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_MAX_SECONDS = 315_576_000_000
"""Ten thousand years: the maximum of a protobuf Duration."""


def encode(message: Message) -> bytes:
    """The message as one JSON object."""
    return msgspec.json.encode(plain(message))


def parse(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body`, empty for an empty body. Raises InvalidArgument with the position of the error.

    NaN and infinities are accepted as numbers here; `fill` reports the field that has them.
    """
    if not body.strip():
        return {}
    try:
        value = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise _wrong("body", f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise _wrong("body", f"is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise _wrong("body", "is nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise _wrong("body", "has a number with too many digits") from None
    if not isinstance(value, dict):
        raise _wrong("body", "must be a JSON object")
    return value


def fill(
    message: Message, values: Mapping[str, Any], found: Violations, at: str = "", valid: Collection[str] | None = None
) -> None:
    """Set the fields of `message` from JSON; null leaves a field unset. `at` is the prefix of field names in errors.

    `valid`: the names that an error about an unknown field lists. Default: all fields of the message.
    """
    for name, value in values.items():
        field = _field_of(message, name)
        place = f"{at}{name}"
        if field is None:
            names = message.DESCRIPTOR.fields_by_name if valid is None else valid
            found.add(printable(place), unknown_field(name, names))
        elif value is not None:
            _set(message, field, value, found, place)


def fill_text(
    message: Message, name: str, texts: Sequence[str], found: Violations, valid: Collection[str] | None = None
) -> None:
    """Set a field from the text of a path or a query. A map is written `name[key]=value`. `valid`: see `fill`."""
    base, bracket, key = name.partition("[")
    field = _field_of(message, base)
    if field is None or bool(bracket) != is_map(field) or (bracket and not key.endswith("]")):
        unknown = field is None or not is_map(field)
        names = message.DESCRIPTOR.fields_by_name if valid is None else valid
        found.add(printable(name), unknown_field(base, names) if unknown else f"use {base}[key]")
    elif len(texts) > 1 and (bracket or not field.is_repeated):
        found.add(printable(name), "is given more than once")
    elif bracket:
        fill(message, {base: {key[:-1]: texts[0]}}, found)
    elif field.is_repeated:
        fill(message, {base: [_from_text(field, text) for text in texts]}, found)
    else:
        fill(message, {base: _from_text(field, texts[0])}, found)


def unknown_field(name: str, valid: Collection[str]) -> str:
    """The error for a field that a call does not have: the most similar field if there is one, and all valid ones.

    The most similar field comes first, because the status of a refusal truncates long texts.
    """
    if not valid:
        return "is not a field of this call, which has no fields here"
    near = get_close_matches(name.lower(), valid, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"is not a field of this call.{hint} Valid fields: {', '.join(valid)}"


def printable(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which no message can have."""
    return text.encode(errors="replace").decode()


def _field_of(message: Message, name: str) -> Field | None:
    """The field with this name, if there is one. For half of a surrogate pair, protobuf itself raises an error."""
    return message.DESCRIPTOR.fields_by_name.get(name) if name.isascii() else None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _wrong(printable(name), "is given more than once")
            seen.add(name)
    return found


def _set(message: Message, field: Field, value: Any, found: Violations, place: str) -> None:
    if is_map(field):
        _set_map(message, field, value, found, place)
    elif field.is_repeated:
        _set_list(message, field, value, found, place)
    elif field.message_type is None:
        checked = _scalar(field, value, found, place)
        if checked is not None:
            setattr(message, field.name, checked)
    elif is_time(field):
        _set_time(getattr(message, field.name), value, found, place)
    elif isinstance(value, dict):
        part = getattr(message, field.name)
        part.SetInParent()
        fill(part, value, found, f"{place}.")
    else:
        found.add(place, f"must be an object, not {_kind(value)}")


def _set_map(message: Message, field: Field, value: Any, found: Violations, place: str) -> None:
    if not isinstance(value, dict):
        found.add(place, f"must be an object, not {_kind(value)}")
        return
    if len(value) > MAX_ENTRIES:
        found.add(place, f"must have at most {MAX_ENTRIES} entries")
        return
    values = field.message_type.fields_by_name["value"]
    for key, each in value.items():
        checked = _scalar(values, each, found, f"{place}.{printable(key)}")
        if checked is not None and _is_text(key, found, place):
            getattr(message, field.name)[key] = checked


def _set_list(message: Message, field: Field, value: Any, found: Violations, place: str) -> None:
    if not isinstance(value, list):
        found.add(place, f"must be a list, not {_kind(value)}")
        return
    if len(value) > MAX_ENTRIES:
        found.add(place, f"must have at most {MAX_ENTRIES} entries")
        return
    for number, each in enumerate(value):
        checked = _scalar(field, each, found, f"{place}[{number}]")
        if checked is not None:
            getattr(message, field.name).append(checked)


def _scalar(field: Field, value: Any, found: Violations, place: str) -> Any:
    """The value converted to the field's type; None if that fails, and then a violation has been added."""
    if field.type == FieldDescriptor.TYPE_STRING and isinstance(value, str):
        return value if _is_text(value, found, place) else None
    if field.type == FieldDescriptor.TYPE_BOOL and isinstance(value, bool):
        return value
    if field.type == FieldDescriptor.TYPE_DOUBLE and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, found, place)
    if field.type in SPANS and isinstance(value, int | float) and not isinstance(value, bool):
        return _whole(value, SPANS[field.type], found, place)
    found.add(place, f"must be {_WANTED[field.type]}, not {_kind(value)}")
    return None


_WANTED: Mapping[int, str] = {
    FieldDescriptor.TYPE_STRING: "a string",
    FieldDescriptor.TYPE_BOOL: "true or false",
    FieldDescriptor.TYPE_DOUBLE: "a number",
    FieldDescriptor.TYPE_INT32: "a whole number",
    FieldDescriptor.TYPE_INT64: "a whole number",
}


def _finite(value: float, found: Violations, place: str) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isfinite(number):
        return number
    found.add(place, "must be a finite number")
    return None


def _whole(value: float, span: tuple[int, int], found: Violations, place: str) -> int | None:
    if isinstance(value, float) and not value.is_integer():
        found.add(place, "must be a whole number")
    elif not span[0] <= value <= span[1]:
        found.add(place, f"must be {span[0]} to {span[1]}")
    else:
        return int(value)
    return None


def _is_text(value: str, found: Violations, place: str) -> bool:
    """False if the text has half of a surrogate pair, which UTF-8 can't encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        found.add(place, "must be valid Unicode text; it has half of a surrogate pair")
        return False
    return True


def _set_time(target: Timestamp | Duration, value: Any, found: Violations, place: str) -> None:
    if isinstance(target, Timestamp):
        if not _set_moment(target, value):
            found.add(place, 'must be a time in RFC 3339, as in "2024-12-20T15:30:00Z"')
    elif not _set_period(target, value):
        found.add(place, 'must be a duration, as in "86400s" or "24h"')


def _set_moment(target: Timestamp, value: Any) -> bool:
    if not isinstance(value, str) or not MOMENT.fullmatch(value):
        return False
    try:
        target.FromJsonString(value)
    except ValueError:
        return False
    return True


def _set_period(target: Duration, value: Any) -> bool:
    match = PERIOD.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return False
    sign, whole, fraction, unit = match.groups()
    nanos = int(whole) * 10**9 + int((fraction or "").ljust(9, "0"))
    nanos *= _UNIT_SECONDS[unit] * (-1 if sign else 1)
    if abs(nanos) > _MAX_SECONDS * 10**9:
        return False
    target.FromNanoseconds(nanos)
    return True


def _from_text(field: Field, text: str) -> Any:
    """The text as the JSON value of the field's type; the text itself if it has another type, as `_scalar` reports."""
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text.lower(), text)
    if field.type in SPANS and _INTEGER.fullmatch(text):
        return int(text)
    if field.type == FieldDescriptor.TYPE_DOUBLE and _NUMBER.fullmatch(text):
        return float(text)
    return text


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return shown(printable(value))
    words = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return words.get(type(value), "null")


def _wrong(place: str, description: str) -> InvalidArgument:
    return InvalidArgument([Violation(place, description)])
