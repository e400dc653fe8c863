"""Posting one event to one target, and judging the answer."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote, urlsplit

from gpuproxy.model.webhooks import EVENT_HEADER, SIGNATURE_HEADER, Delivery, Target, body, signature
from gpuproxy.ports import Http, HttpNotSent, HttpReplyLost, HttpRequest

TIMEOUT = 10.0
"""Real seconds for the whole exchange."""
_MOST_BYTES = 1 << 20
_MOST_ERROR = 200
_LONGEST_RETRY_AFTER = 3600.0
_LEAST_SECRET = 6
"""Shorter parts of a URL are parts of ordinary words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one try."""

    status: int
    """0: there was no answer."""
    error: str
    """Why it failed; "" if the target has taken the event. It has no URL and no secret."""
    retry_after: float = 0.0
    """Seconds for which the target wants no other try."""


async def post(http: Http, target: Target, event: Delivery, now: datetime) -> Answer:
    """Post an event. A status of 200 to 299 means that the target has taken it. No redirect is followed.

    `now`: the time of the signature, which the receiver compares with its own.
    """
    posted = body(event, target.form)
    headers = {"Content-Type": "application/json", EVENT_HEADER: event.event_id}
    if target.secrets:
        headers[SIGNATURE_HEADER] = signature(target.secrets, now, posted)
    request = HttpRequest(
        method="POST", url=target.url, headers=headers, body=posted, timeout=TIMEOUT, max_bytes=_MOST_BYTES
    )
    try:
        response = await http.send(request)
    except (HttpNotSent, HttpReplyLost) as error:
        return Answer(0, _unanswered(error, target)[:_MOST_ERROR])
    if 200 <= response.status < 300:
        return Answer(response.status, "")
    if 300 <= response.status < 400:
        return Answer(response.status, f"it answered {response.status}, a redirect, which is not followed")
    return Answer(response.status, f"it answered {response.status}", _retry_after(response.headers))


def without_secrets(text: str, target: Target) -> str:
    """The text without the secrets of the target, and without the parts of its URL that may be secrets."""
    for secret in sorted(secrets_of(target), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def secrets_of(target: Target) -> frozenset[str]:
    """What must never be shown of a target: whoever knows the path of a Slack webhook can post to it."""
    parts = urlsplit(target.url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    login = (parts.username, parts.password)
    found = {target.url, path, path.lstrip("/"), parts.query, parts.netloc.rpartition("@")[0], *target.secrets}
    found |= {spelling for part in login if part for spelling in (part, unquote(part))}
    return frozenset(secret for secret in found if len(secret) >= _LEAST_SECRET)


def _unanswered(error: HttpNotSent | HttpReplyLost, target: Target) -> str:
    """Why there was no answer, without the target's host and without secrets."""
    cause = error.__cause__
    if isinstance(error, HttpNotSent) and isinstance(cause, OSError) and (why := _unconnected(cause)):
        return f"no connection ({why})"
    host = urlsplit(target.url).hostname
    text = without_secrets(str(error), target)
    return text.replace(host, "***") if host else text


def _unconnected(error: OSError) -> str:
    """Why a connection failed; "" if that is not known. The error's own text may have the address."""
    if isinstance(error, ssl.CertificateError):
        return "its certificate is not valid"
    if isinstance(error, ssl.SSLError) or "SSL" in type(error).__name__:
        return "TLS failed"
    if error.errno is None or error.errno == 0:
        return ""
    return os.strerror(error.errno).lower() if error.errno > 0 else "the host's name is not known"


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "").strip()
    return min(float(text), _LONGEST_RETRY_AFTER) if text.isascii() and text.isdecimal() and len(text) < 10 else 0.0
