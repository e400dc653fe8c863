"""Lists in pages: a page begins at the first entry behind a place, whether or not what stood there is still listed.

A place is what a list is ordered by, with an id at its end, so that no two entries share one. The token for the next
page holds the place of a page's last entry, and the request that it is good for. An entry whose place changes to one
before the token's is missed: lists are ordered by what never does that, or say so.
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
    """What a request is recognised by; `fields` are all but those that say which page, and how large."""
    return hashlib.sha256(call.encode() + b"\0" + fields).hexdigest()[:16]


def token(request: str, last: tuple[object, ...]) -> str:
    """The token of the page behind `last`, for the request with this digest."""
    return base64.urlsafe_b64encode(msgspec.json.encode((request, last))).decode()


def after(page_token: str, request: str, kind: type[P]) -> P | None:
    """Where the page before ended; None for the first page. `kind` is the type of the list's places.

    Raises InvalidArgument for what is no token, and for the token of another request.
    """
    if not page_token:
        return None
    try:
        raw = base64.urlsafe_b64decode(page_token.encode())
        of, last = msgspec.json.decode(raw, type=tuple[str, kind])  # type: ignore[valid-type]
    except (binascii.Error, UnicodeError, ValueError, msgspec.MsgspecError, RecursionError):
        raise InvalidArgument([Violation("page_token", "is not a next_page_token of this server")]) from None
    if of != request:
        text = "belongs to another request: repeat the other fields unchanged"
        raise InvalidArgument([Violation("page_token", text)])
    return last


def start(entries: Sequence[E], last: P | None, place: Callable[[E], P]) -> int:
    """The index of the first of `entries`, which are in the order of their places, that stands behind `last`."""
    return 0 if last is None else bisect_right(entries, last, key=place)
