"""A visit: one request of a browser that has logged in, with what its page needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from aiohttp import hdrs, web
from google.protobuf.message import Message

from gpuproxy.edge.rpc.rpcs import RANK
from gpuproxy.edge.web.calls import Calls
from gpuproxy.edge.web.forms import Form, parsed
from gpuproxy.edge.web.live import Fragment, Recent, Streams
from gpuproxy.edge.web.rendering import HEADERS, Renderer
from gpuproxy.edge.web.sessions import Session
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Unauthenticated
from gpuproxy.ports import Clock, Random

ROOT = "/ui/"
"""The dashboard's pages are below it; the cookie is sent to them only."""
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all pages use."""

    calls: Calls
    renderer: Renderer
    streams: Streams
    recent: Recent
    clock: Clock
    random: Random
    providers: Sequence[str] = ()
    """The marketplaces, for the choice in forms."""


@dataclass(slots=True, kw_only=True)
class Visit:
    """One request, authenticated."""

    site: Site
    request: web.Request
    session: Session
    caller: Caller
    form: Form = field(default_factory=dict)
    """Of a POST; its secret and origin have been checked."""

    @property
    def can_write(self) -> bool:
        """False for a viewer, whose pages have no buttons."""
        return RANK[self.caller.role] >= RANK["user"]

    @property
    def partial(self) -> bool:
        """True if a script asks for a part of the page."""
        return self.request.headers.get("HX-Request") == "true"

    @property
    def query(self) -> Form:
        """The values of the address."""
        return parsed(self.request.query_string)

    async def call(self, request: Message, answer: type[_M], *, poll: bool = False) -> _M:
        """Make a call with the session's credentials. Raises the call's Refusal."""
        return await self.site.calls.call(
            request, answer, self.session.metadata, peer=self.request.remote or "", poll=poll
        )

    def text(self, template: str, **values: Any) -> str:
        """A part of a page."""
        return self.site.renderer.text(template, self._with_common(values))

    def page(self, template: str, *, status: int = 200, **values: Any) -> web.Response:
        """A page."""
        return self.site.renderer.page(template, self._with_common(values), status=status)

    async def live(self, fragment: Fragment) -> web.StreamResponse:
        """A stream of a part of a page, which must have nothing of the session. It ends with the session."""

        async def checked() -> str:
            await self.site.calls.identify(self.session.metadata)
            if not self.session.open:
                raise Unauthenticated("You have logged out.")
            seen_by = (self.request.path, self.caller.scope, self.caller.role)
            return await self.site.recent.text(seen_by, fragment)

        return await self.site.streams.send(self.request, self.session, checked)

    def to(self, path: str) -> web.Response:
        """Send the browser to another page of the dashboard."""
        return redirected(self.request, path)

    def _with_common(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "me": self.caller,
            "can_write": self.can_write,
            "csrf": self.session.csrf,
            "path": self.request.path,
        } | {**values}


def redirected(request: web.Request, path: str) -> web.Response:
    """A redirect for a browser, or for a script that would otherwise follow it out of sight."""
    if request.headers.get("HX-Request") == "true":
        return web.Response(status=200, headers={**HEADERS, "HX-Redirect": path})
    return web.Response(status=303, headers={**HEADERS, hdrs.LOCATION: path})


def part(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="")
