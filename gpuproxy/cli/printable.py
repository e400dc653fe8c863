"""Answers of the server without characters that control a terminal.

Marketplaces and their hosts choose some of the texts: names, places, status messages. Printed as they are, such a text
could move the cursor, hide a line or write another one. A machine's own log is printed as it is, as by other programs.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from gpuproxy.edge.messages.json_values import is_map

M = TypeVar("M", bound=Message)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_AS_IT_IS = "/GetInstanceLogs"


def printable(text: str) -> str:
    """The text with a replacement character for each one that is not printable. Line breaks and tabs are kept."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _blank(each) for each in text)


def printable_channel(channel: grpc.Channel) -> grpc.Channel:
    """The channel for a stub whose answers are made printable."""
    return cast("grpc.Channel", _Channel(channel))


def make_printable(message: M) -> M:
    """The same message, changed: every text in it is printable."""
    for field, value in message.ListFields():
        if is_map(field):
            for key, text in value.items():
                if isinstance(text, str):
                    value[key] = printable(text)
        elif field.cpp_type == field.CPPTYPE_MESSAGE:
            for each in value if field.is_repeated else (value,):
                make_printable(each)
        elif field.type == field.TYPE_STRING and field.is_repeated:
            value[:] = [printable(each) for each in value]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, printable(value))
    return message


class _Channel:
    """The calls that a stub of the service makes."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Message], **rest: Any) -> object:
        return self._channel.unary_unary(method, response_deserializer=_made(method, response_deserializer), **rest)

    def unary_stream(self, method: str, *, response_deserializer: Callable[[bytes], Message], **rest: Any) -> object:
        return self._channel.unary_stream(method, response_deserializer=_made(method, response_deserializer), **rest)


def _made(method: str, read: Callable[[bytes], M]) -> Callable[[bytes], M]:
    return read if method.endswith(_AS_IT_IS) else lambda body: make_printable(read(body))


def _blank(character: str) -> str:
    return " " if character.isspace() and character not in "\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029" else _REPLACEMENT
