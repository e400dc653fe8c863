"""Login and logout: a key, or an email address and a password, in exchange for a session in a cookie."""

from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from gpuproxy.edge.http.answers import Problem
from gpuproxy.edge.web.forms import Form
from gpuproxy.edge.web.rendering import HEADERS
from gpuproxy.edge.web.sessions import MAX_SECONDS, Sessions
from gpuproxy.edge.web.visits import ROOT, Site, part, redirected
from gpuproxy.model.errors import InvalidArgument, Unauthenticated, Violation
from gpuproxy.v1 import gpuproxy_pb2 as pb

COOKIE = "gpuproxy_session"
_PATH = f"{ROOT}login"


def page(site: Site, request: web.Request, *, problem: Problem | None = None) -> web.Response:
    """The login page."""
    values: dict[str, Any] = {
        "problem": problem,
        "next": _inside(request.query.get("next", "")),
        "ended": "ended" in request.query,
        "path": request.path,
    }
    return site.renderer.page("login.html", values, status=200 if problem is None else problem.code)


async def enter(site: Site, sessions: Sessions, request: web.Request, form: Form) -> web.Response:
    """Begin a session, and send the browser to the page that it asked for. Raises Unauthenticated and others."""
    key, email, password = form.get("key", ""), form.get("email", ""), form.get("password", "")
    if key:
        metadata = {"x-api-key": key}
    elif email and password:
        asked = pb.LoginRequest(email=email, password=password)
        answer = await site.calls.call(asked, pb.LoginResponse, {}, peer=request.remote or "")
        metadata = {"authorization": f"Bearer {answer.token}"}
    else:
        raise InvalidArgument([Violation("login", "needs an API key, or an email address and a password")])
    try:
        caller = await site.calls.identify(metadata)
    except Unauthenticated:
        raise Unauthenticated("This API key is not valid.") from None
    previous = await sessions.known(request.cookies.get(COOKIE, ""))
    if previous is not None:
        await sessions.finish(previous)
    token = await sessions.begin(metadata, caller.key_id or caller.user_id)
    response = redirected(request, _inside(request.query.get("next", "")))
    # A proxy may have ended TLS. Then the browser's own word is the only sign of it.
    secure = request.secure or request.headers.get(hdrs.ORIGIN, "").startswith("https:")
    response.set_cookie(
        COOKIE, token, path=ROOT, max_age=int(MAX_SECONDS), httponly=True, samesite="Strict", secure=secure
    )
    return response


def required(request: web.Request) -> web.Response:
    """Send the browser to the login, and back to this page afterwards."""
    if request.method != hdrs.METH_GET or request.path.endswith("/live"):
        target = f"{_PATH}?ended"
    else:
        target = f"{_PATH}?next={part(request.path_qs)}" if request.path != ROOT else _PATH
    if request.headers.get(hdrs.ACCEPT, "").startswith("text/event-stream"):
        # An error would look like a broken connection.
        headers = {**HEADERS, hdrs.CONTENT_TYPE: "text/event-stream"}
        return web.Response(body=b"event: ended\ndata: login\n\n", headers=headers)
    return redirected(request, target)


def left(request: web.Request) -> web.Response:
    """Forget the cookie."""
    response = redirected(request, _PATH)
    response.del_cookie(COOKIE, path=ROOT, httponly=True, samesite="Strict")
    return response


def _inside(path: str) -> str:
    """The path if it is a page of the dashboard, else the first page. Nobody is sent to another site."""
    whole = urlsplit(path)
    inside = not whole.scheme and not whole.netloc and path.startswith(ROOT) and "\\" not in path
    plain = inside and path.isprintable() and not whole.path.endswith("/live")
    return path if plain else ROOT
