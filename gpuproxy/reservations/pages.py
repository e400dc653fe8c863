"""Lists in pages.

A place is the sort key of an entry. It ends with an id, so it is unique. The token for the next page holds the place of
the last entry and a digest of the request. The next page begins with the first entry after that place, even if the
entry at that place is no longer listed. Places must never decrease, or a later page misses the entry.
"""

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from gpuproxy.model.errors import InvalidArgument, Violation

E = TypeVar("E")
P = TypeVar("P", bound=tuple[object, ...])


def digest(call: str, fields: bytes) -> str:
    """A digest that identifies a request. `fields`: the encoded fields, without page token and page size."""
    return hashlib.sha256(call.encode() + b"\0" + fields).hexdigest()[:16]


def token(request: str, last: tuple[object, ...]) -> str:
    """The token of the page after the place `last`, for the request with this digest."""
    return base64.urlsafe_b64encode(msgspec.json.encode((request, last))).decode()


def after(page_token: str, request: str, kind: type[P]) -> P | None:
    """The place where the previous page ended; None for the first page. `kind` is the type of the list's places.

    Raises InvalidArgument for an invalid token and for the token of another request.
    """
    if not page_token:
        return None
    try:
        raw = base64.urlsafe_b64decode(page_token.encode())
        of, last = msgspec.json.decode(raw, type=tuple[str, kind])  # type: ignore[valid-type]
    except (binascii.Error, UnicodeError, ValueError, msgspec.MsgspecError, RecursionError):
        raise _invalid() from None
    if not _storable(last):
        raise _invalid()
    if of != request:
        text = "belongs to another request: repeat the other fields unchanged"
        raise InvalidArgument([Violation("page_token", text)])
    return last


def _invalid() -> InvalidArgument:
    return InvalidArgument([Violation("page_token", "is not a next_page_token of this server")])


def _storable(place: object) -> bool:
    """False if a number or a text in a place is one that no database can store: the token was changed."""
    if isinstance(place, tuple):
        return all(map(_storable, place))
    if isinstance(place, int):
        return -(2**63) <= place < 2**63
    return not isinstance(place, str) or "\0" not in place


def start(entries: Sequence[E], last: P | None, place: Callable[[E], P]) -> int:
    """The index of the first entry after `last`. `entries` are in the order of their places."""
    return 0 if last is None else bisect_right(entries, last, key=place)
