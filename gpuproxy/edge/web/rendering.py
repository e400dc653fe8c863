"""HTML of the dashboard: templates, and how money, times and states are shown.

Every text is escaped, because names and messages come from users and marketplaces. Pages have no inline script or
style, and their policy allows none.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gpuproxy.ports import Clock

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    # With `no-referrer`, browsers send `Origin: null` with a form, and it could not be compared with Host.
    "Referrer-Policy": "same-origin",
    hdrs.CACHE_CONTROL: "no-store",
}
TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"
ASSETS = tuple(sorted(path.name for path in STATIC.iterdir() if path.suffix in (".css", ".js", ".svg")))
VERSION = hashlib.blake2b(b"".join((STATIC / name).read_bytes() for name in ASSETS), digest_size=6).hexdigest()
"""Of all static files."""
_GOOD = frozenset({"active", "healthy", "ok", "closed", "completed", "finished", "delivered"})
_BUSY = frozenset(
    {"pending", "requested", "starting", "releasing", "provisioning", "searching", "reserved", "limited", "running"}
)
_BAD = frozenset(
    {"unknown", "lost", "failed", "degraded", "failover", "paused", "silent", "failing", "removed", "open", "gave_up"}
)


class Renderer:
    """Renders templates; `clock` is the time from which ends are counted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters |= {
            "usd": usd,
            "usd4": lambda amount: usd(amount, 4),
            "when": self.when,
            "until": self.until,
            "moment": moment,
            "tone": tone,
            "seconds": seconds,
            "data": data,
            "asset": asset,
            "ends_itself": ends_itself,
            "ready_because": ready_because,
        }

    def load(self) -> None:
        """Compile all templates. It takes a tenth of a second, so a thread does it before the first page."""
        for name in self._templates.list_templates():
            self._templates.get_template(name)

    def text(self, template: str, values: Mapping[str, Any]) -> str:
        """The rendered template."""
        return self._templates.get_template(template).render(**values)

    def page(self, template: str, values: Mapping[str, Any], *, status: int = 200) -> web.Response:
        """The rendered template as a response."""
        body = self.text(template, values).encode(errors="replace")
        response = web.Response(status=status, body=body, content_type="text/html", charset="utf-8", headers=HEADERS)
        if len(body) > 1024:
            response.enable_compression()
        return response

    def until(self, value: Timestamp | datetime | None) -> str:
        """The time until a moment in words: `in 3 h 12 min`, or `12 min ago`."""
        at = _as_datetime(value)
        if at is None:
            return ""
        left = (at - self._clock.now()).total_seconds()
        text = span(abs(left))
        return f"in {text}" if left >= 0 else f"{text} ago"

    def when(self, value: Timestamp | datetime | None) -> Markup:
        """A moment as `<time>`: how far away it is, and exactly as its title."""
        at = _as_datetime(value)
        if at is None:
            return Markup("")
        exact = at.strftime("%Y-%m-%d %H:%M:%S UTC")
        return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), exact, self.until(at))


def usd(amount: float, places: int = 2) -> str:
    """`$1.24`; tiny amounts keep two significant digits, so that a price is never shown as zero."""
    if 0 < abs(amount) < 10**-places:
        places = min(6, 1 - math.floor(math.log10(abs(amount))))
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{places}f}"


def span(total: float) -> str:
    """Seconds in the two largest units: `3 d 4 h`, `12 min`, `45 s`."""
    minutes = int(total // 60)
    if minutes < 1:
        return f"{int(total)} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def seconds(total: float) -> str:
    """A short duration: `2.4 s`, `1 min 12 s`."""
    return f"{total:.1f} s" if total < 60 else f"{int(total // 60)} min {int(total % 60)} s"


def moment(value: Timestamp | datetime | None) -> Markup:
    """A moment as `<time>` in UTC."""
    at = _as_datetime(value)
    if at is None:
        return Markup("")
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), at.strftime("%Y-%m-%d %H:%M:%S"))


def tone(state: str) -> str:
    """The CSS class of a state: good, busy, bad or plain. The state itself is always shown as text."""
    for name, states in (("good", _GOOD), ("busy", _BUSY), ("bad", _BAD)):
        if state in states:
            return name
    return "plain"


def data(value: object) -> Markup:
    """A value as JSON in an attribute."""
    return escape(json.dumps(value))


def ends_itself(word: str) -> str:
    """What `self_ending` of a machine says, as an answer."""
    words = {"confirmed": "yes", "sent": "yes, not confirmed yet", "": "no"}
    return words.get(word, f"no: {word.removeprefix('unsupported: ').replace('_', ' ')}")


def ready_because(evidence: str) -> str:
    """What `ready_evidence` of a machine says, for people."""
    words = {
        "ssh lets in": "a login over SSH succeeded",
        "ssh greets": "its SSH server answers",
        "running": "the marketplace says that it runs",
    }
    return words.get(evidence, evidence)


def asset(name: str) -> str:
    """The address of a static file. It changes with the files, so browsers may keep them for ever."""
    return f"/ui/static/{name}?v={VERSION}"


def given(message: Message, name: str) -> Any:
    """The value of a field with presence; None if it is absent."""
    return getattr(message, name) if message.HasField(name) else None


def _as_datetime(value: Timestamp | datetime | None) -> datetime | None:
    if isinstance(value, Timestamp):
        if not value.seconds and not value.nanos:
            return None
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    return value
