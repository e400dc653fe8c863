"""Forms of the dashboard: reading them safely, proving that our own page sent them, and making requests of them."""

import asyncio
import hmac
from collections.abc import Collection, Mapping
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from aiohttp import hdrs, web
from google.protobuf.message import Message

from gpuproxy.edge.messages import json_codec
from gpuproxy.edge.messages.violations import Violations
from gpuproxy.edge.rpc.dispatch import SMALL_BYTES
from gpuproxy.model.errors import InvalidArgument, PermissionDenied, Violation

FORM_TYPE = "application/x-www-form-urlencoded"
MAX_BYTES = 256 * 1024
BODY_SECONDS = 10.0
"""Maximum real seconds until a form has arrived."""
_MAX_FIELDS = 200
CSRF = "csrf"
"""The field with the session's secret."""
_UNCHANGED = "password"
_M = TypeVar("_M", bound=Message)

Form = Mapping[str, str]
"""Values by name, without surrounding spaces. Empty values are left out, and of several values the last one counts."""


async def read(request: web.Request, *, anonymous: bool = False) -> Form:
    """The form in the body. Raises InvalidArgument if it is too long or too slow, or no form."""
    if request.content_type != FORM_TYPE:
        raise _wrong(f"must be a form ({FORM_TYPE})")
    limit = SMALL_BYTES if anonymous else MAX_BYTES
    try:
        async with asyncio.timeout(BODY_SECONDS):
            raw = await request.clone(client_max_size=limit).read()
    except web.HTTPRequestEntityTooLarge:
        raise _wrong(f"must be at most {limit} bytes") from None
    except TimeoutError:
        raise _wrong(f"did not arrive within {BODY_SECONDS:g} s") from None
    return parsed(raw.decode(errors="replace"))


def parsed(text: str) -> Form:
    """The values of a form or a query."""
    try:
        values = parse_qs(text, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise _wrong(f"must have at most {_MAX_FIELDS} fields") from None
    plain = {name: each[-1] if name == _UNCHANGED else each[-1].strip() for name, each in values.items()}
    return {name: text for name, text in plain.items() if text}


def require_same_origin(request: web.Request) -> None:
    """Raise PermissionDenied unless the browser says that a page of this server sends the request."""
    origin = urlsplit(request.headers.get(hdrs.ORIGIN, ""))
    if origin.scheme not in ("http", "https") or origin.netloc.lower() != request.headers.get(hdrs.HOST, "").lower():
        raise PermissionDenied("This form was not sent by a page of this server. Open the page again, and repeat it.")


def require_token(form: Form, csrf: str) -> None:
    """Raise PermissionDenied unless the form has the session's secret."""
    if not hmac.compare_digest(form.get(CSRF, "").encode(), csrf.encode()):
        raise PermissionDenied("This form belongs to an earlier login. Reload the page, and repeat it.")


def request_of(message: type[_M], form: Form, *, lists: Collection[str] = (), without: Collection[str] = ()) -> _M:
    """The call's request with those fields that it has in common with the form. Raises InvalidArgument.

    Fields in `lists` are split at commas and spaces, also a map, whose entries are written `key=value`. `without`: not
    these fields.
    """
    made, found = message(), Violations()
    for name, text in form.items():
        if name not in made.DESCRIPTOR.fields_by_name or name in without:
            continue
        if name not in lists:
            json_codec.fill_text(made, name, [text], found)
            continue
        parts = text.replace(",", " ").split()
        if made.DESCRIPTOR.fields_by_name[name].message_type is None:
            json_codec.fill_text(made, name, parts, found)
        elif all("=" in part for part in parts):
            json_codec.fill(made, {name: dict(part.split("=", 1) for part in parts)}, found)
        else:
            found.add(name, "must be entries such as key=value")
    found.finish()
    return made


def _wrong(description: str) -> InvalidArgument:
    return InvalidArgument([Violation("form", description)])
