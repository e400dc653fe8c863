"""Messages as JSON objects of Python values, in the contract's format. The command line uses it without a server."""

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

Field = Any
"""A FieldDescriptor of either protobuf implementation, Python or C."""
_TIMES = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration"})
_Shape = Callable[[Any], Any]


def plain(message: Message) -> dict[str, Any]:
    """The message as a JSON object of Python values, with every field."""
    return {name: shape(message) for name, shape in _shapes(message.DESCRIPTOR)}


def is_map(field: Field) -> bool:
    """True for a map, which protobuf has as a list of entries."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def is_time(field: Field) -> bool:
    """True for a message that JSON has as one text: a Timestamp or a Duration."""
    return field.message_type is not None and field.message_type.full_name in _TIMES


@cache
def _shapes(descriptor: Descriptor) -> tuple[tuple[str, _Shape], ...]:
    return tuple((field.name, _shape(field)) for field in descriptor.fields)


def _shape(field: Field) -> _Shape:
    """A function from a message to the JSON value of one of its fields."""
    name = field.name
    if is_map(field):
        return lambda message: dict(getattr(message, name))
    element = _element(field)
    if field.is_repeated:
        return lambda message: list(map(element, getattr(message, name))) if element else list(getattr(message, name))
    if field.has_presence:
        if element is None:
            return lambda message: getattr(message, name) if message.HasField(name) else None
        return lambda message: element(getattr(message, name)) if message.HasField(name) else None
    return attrgetter(name)


def _element(field: Field) -> _Shape | None:
    """The function that converts one value to JSON; None if the value needs no conversion."""
    if field.message_type is None:
        return None
    if is_time(field):
        return lambda value: value.ToJsonString()
    return plain
