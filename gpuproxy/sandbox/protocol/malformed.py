"""Rows that can't be read, and answers that contain them."""

import json
from collections.abc import Mapping
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.faults import Fault
from gpuproxy.sandbox.protocol.wire import raw_answer

Row = dict[str, Any]
_UNDECODABLE = "undecodable-bytes"
_BYTES = b"caf\xe9 \xff\xfe"


def malformed(row: Row, fault: Fault, *, numbers: Mapping[str, float], text: str) -> Row | None:
    """The row with the malformation of `args.kind`.

    `numbers` are what its fields become that no JSON can have; `text` is the field that gets unreadable characters.
    """
    match fault.args.get("kind", "undecodable"):
        case "null_row":
            return None
        case "no_id":
            return {name: value for name, value in row.items() if name != "id"}
        case "wrong_types":
            return {name: _other_type(value) for name, value in row.items()}
        case "null_fields":
            return {name: value if name == "id" else None for name, value in row.items()}
        case "nan":
            return {**row, **numbers}
        case "surrogate":
            return {**row, text: "broken \ud800 text"}
    return {**row, text: _UNDECODABLE}


def encoded(body: Row) -> HttpResponse:
    """An answer with a body that may have such rows."""
    text = json.dumps(body, separators=(",", ":")).encode()
    return raw_answer(text.replace(_UNDECODABLE.encode(), _BYTES))


def _other_type(value: Any) -> Any:
    match value:
        case bool() | int() | float():
            return str(value)
        case str():
            return len(value)
        case dict():
            return list(value.values())
        case list():
            return {str(place): one for place, one in enumerate(value)}
    return value
