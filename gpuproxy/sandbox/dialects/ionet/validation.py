"""The checks of io.net's web framework: every wrong field has an entry in a 422, with its place."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpuproxy.ports import HttpResponse
from gpuproxy.sandbox.protocol.wire import BadBody, Incoming, answer

Place = tuple[str, ...]
_MISSING = object()


class Invalid(Exception):
    """The request is invalid; the argument is the list of problems."""

    def response(self) -> HttpResponse:
        """The answer."""
        return answer({"detail": self.args[0]}, 422)


class Fields:
    """The fields of one object of a request. Problems are collected until `finish`."""

    def __init__(self, values: Mapping[str, Any], place: Place, problems: list[dict[str, Any]] | None = None) -> None:
        """`values` of a query are texts."""
        self._values = values
        self._place = place
        self._known: set[str] = set()
        self._is_query = place == ("query",)
        self._problems: list[dict[str, Any]] = [] if problems is None else problems

    def finish(self, *, strict: bool = True) -> None:
        """Raises Invalid if anything was wrong. With `strict`, unknown fields are wrong."""
        if strict:
            self.only_known()
        if self._problems:
            raise Invalid(self._problems)

    def names(self) -> list[str]:
        """The names of all fields."""
        return list(self._values)

    def only_known(self) -> None:
        """Complain about fields that were not read."""
        for name in self._values:
            if name not in self._known:
                self.wrong(name, "Extra inputs are not permitted", "extra_forbidden")

    def wrong(self, name: str, text: str, kind: str) -> None:
        """Complain about a field; "" is the object itself."""
        place = [*self._place, *([name] if name else [])]
        self._problems.append({"type": kind, "loc": place, "msg": text, "input": None})

    def raw(self, name: str, *, required: bool = False) -> Any:
        """The value as it is; None if it is absent."""
        self._known.add(name)
        value = self._values.get(name, _MISSING)
        if value is _MISSING or (value is None and required):
            if required:
                self.wrong(name, "Field required", "missing")
            return None
        return value

    def text(self, name: str, *, required: bool = False) -> str:
        """A text; "" if it is absent."""
        value = self.raw(name, required=required)
        if value is None or isinstance(value, str):
            if required and value == "":
                self.wrong(name, "String should have at least 1 character", "string_too_short")
            return value or ""
        self.wrong(name, "Input should be a valid string", "string_type")
        return ""

    def whole(self, name: str, *, least: int, most: int = 2**31, default: int | None = None) -> int:
        """A whole number within its limits; it is required unless there is a default."""
        value = self.raw(name, required=default is None)
        if value is None:
            return default if default is not None else least
        if self._is_query and isinstance(value, str) and value.lstrip("-").isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(name, "Input should be a valid integer", "int_parsing" if self._is_query else "int_type")
            return least
        if value < least:
            self.wrong(name, f"Input should be greater than or equal to {least}", "greater_than_equal")
        elif value > most:
            self.wrong(name, f"Input should be less than or equal to {most}", "less_than_equal")
        return value

    def yes(self, name: str) -> bool | None:
        """A boolean; None if it is absent or null."""
        value = self.raw(name)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(name, "Input should be a valid boolean", "bool_type")
        return None

    def word(self, name: str, words: Sequence[str], default: str) -> str:
        """One of some words."""
        value = self.raw(name)
        if value is None:
            return default
        if value not in words:
            self.wrong(name, f"Input should be {' or '.join(repr(word) for word in words)}", "enum")
        return str(value)

    def identity(self, name: str) -> int | str:
        """A required number or text."""
        value = self.raw(name, required=True)
        if isinstance(value, bool) or not isinstance(value, (int, str, type(None))):
            self.wrong(name, "Input should be a valid integer or string", "int_type")
            return ""
        return "" if value is None else value

    def texts(self, name: str) -> list[str] | None:
        """A list of texts; None if it is absent or null."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.wrong(name, "Input should be a valid list of strings", "list_type")
            return None
        return value

    def named_texts(self, name: str, *, nulls: bool = False) -> dict[str, Any]:
        """An object of texts; with `nulls` also of nulls."""
        value = self.raw(name)
        if value is None:
            return {}
        allowed = (str, type(None)) if nulls else (str,)
        if not isinstance(value, dict) or not all(isinstance(each, allowed) for each in value.values()):
            self.wrong(name, "Input should be a valid dictionary of strings", "dict_type")
            return {}
        return value

    def inner(self, name: str, *, required: bool = False) -> "Fields | None":
        """The fields of an object inside of this one."""
        value = self.raw(name, required=required)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.wrong(name, "Input should be a valid dictionary", "dict_type")
            return None
        return Fields(value, (*self._place, name), self._problems)

    def place_ids(self, name: str = "location_ids") -> int | str | None:
        """The only entry of a list of locations; None if it is absent."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list) or any(isinstance(each, bool) or not _is_id(each) for each in value):
            self.wrong(name, "Input should be a valid list", "list_type")
        elif len(value) > 1:
            self.wrong(name, f"List should have at most 1 item after validation, not {len(value)}", "too_long")
        elif not value:
            self.wrong(name, "List should have at least 1 item after validation, not 0", "too_short")
        else:
            place: int | str = value[0]
            return place
        return None


def body_of(request: Incoming) -> Fields:
    """The fields of a body. Raises Invalid if it is not an object."""
    try:
        return Fields(request.json(), ("body",))
    except BadBody as error:
        problem = {"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error", "input": {}}
        raise Invalid([problem]) from error


def query_of(request: Incoming) -> Fields:
    """The fields of a query. Its `location_ids` is one text with a JSON list; a repeated parameter is wrong."""
    values: dict[str, Any] = dict(request.query)
    problems: list[dict[str, Any]] = []
    fields = Fields(values, ("query",), problems)
    if "location_ids" in values:
        try:
            values["location_ids"] = json.loads(values["location_ids"])
        except ValueError:
            values["location_ids"] = ()  # no list
    if "location_ids" in request.repeated:
        fields.wrong("location_ids", "Value should be one JSON array", "value_error")
    return fields


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))
