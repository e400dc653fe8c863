"""The dashboard's routes, and the checks that every request passes before its page.

A page needs a session whose credentials are still valid. A form needs, in addition, the session's secret and an Origin
that is this server. Every error becomes a page, or a part of one, that says what happened.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from aiohttp import hdrs, web

from gpuproxy.edge.http.answers import problem_of
from gpuproxy.edge.rpc.dispatch import Dispatcher
from gpuproxy.edge.web import (
    costs,
    forms,
    health,
    keys,
    left_out,
    login,
    market,
    now,
    pool_creation,
    pools,
    reservations,
)
from gpuproxy.edge.web.calls import Calls, Reads
from gpuproxy.edge.web.live import Recent, Streams
from gpuproxy.edge.web.login import COOKIE
from gpuproxy.edge.web.rendering import ASSETS, STATIC, VERSION, Renderer
from gpuproxy.edge.web.sessions import Sessions
from gpuproxy.edge.web.visits import ROOT, Site, Visit, redirected
from gpuproxy.identity.kept_sessions import KeptSessions
from gpuproxy.model.errors import InvalidArgument, Refusal, Unauthenticated
from gpuproxy.ports import Clock, Random, Workers

_STATIC_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
Handler = Callable[[Visit], Awaitable[web.StreamResponse]]

PAGES: Mapping[str, Handler] = {
    "": now.page,
    "now/live": now.live,
    "market": market.page,
    "market/offers": market.offers,
    "market/prices": market.prices,
    "market/left-out": left_out.page,
    "reservations": reservations.listed,
    "reservations/{id}": reservations.page,
    "reservations/{id}/live": reservations.live,
    "pools": pools.listed,
    "pools/new": pool_creation.page,
    "pools/new/hosts": pool_creation.hosts,
    "pools/{id}": pools.page,
    "pools/{id}/live": pools.live,
    "costs": costs.page,
    "costs.csv": costs.table,
    "health": health.page,
    "keys": keys.page,
}
FORMS: Mapping[str, Handler] = {
    "market/plan": market.plan,
    "market/rent": market.rent,
    "reservations/{id}/extend": reservations.extend,
    "reservations/{id}/release": reservations.release,
    "pools/new/plan": pool_creation.plan,
    "pools/new/create": pool_creation.create,
    "pools/{id}/enable": pools.enable,
    "pools/{id}/disable": pools.disable,
    "pools/{id}/test": pools.test,
    "pools/{id}/cleanup": pools.cleanup,
    "pools/{id}/delete-volume": pools.delete_volume,
    "keys/create": keys.create,
    "keys/revoke": keys.revoke,
    "keys/ssh/add": keys.add_ssh,
    "keys/ssh/delete": keys.delete_ssh,
    "health/strategy": health.strategy,
}


class Dashboard:
    """The web pages. `mount` adds them to an HTTP server."""

    def __init__(self, site: Site, workers: Workers, kept: KeptSessions | None = None) -> None:
        self._site = site
        self._workers = workers
        self._loaded = False
        self._sessions = Sessions(site.clock, site.random, kept)

    def mount(self, app: web.Application) -> None:
        """Add the routes, and end live views when the server stops."""
        for path in ("/", ROOT.rstrip("/")):
            app.router.add_get(path, self._root)
        app.router.add_get(f"{ROOT}login", self._login_page)
        app.router.add_post(f"{ROOT}login", self._login)
        app.router.add_post(f"{ROOT}logout", self._form(self._logout))
        app.router.add_get(f"{ROOT}static/{{name:.*}}", _static)
        for path, page in PAGES.items():
            app.router.add_get(f"{ROOT}{path}", self._page(page), allow_head=False)
        for path, form in FORMS.items():
            app.router.add_post(f"{ROOT}{path}", self._form(form))
        app.router.add_get(f"{ROOT}{{missing:.*}}", self._page(_missing))
        app.on_shutdown.append(self._stop)

    async def _stop(self, _app: web.Application) -> None:
        await self._site.streams.stop()

    async def _root(self, request: web.Request) -> web.Response:
        return redirected(request, ROOT)

    async def _login_page(self, request: web.Request) -> web.Response:
        await self._load()
        return login.page(self._site, request)

    async def _login(self, request: web.Request) -> web.StreamResponse:
        await self._load()
        try:
            forms.require_same_origin(request)
            form = await forms.read(request, anonymous=True)
            return await login.enter(self._site, self._sessions, request, form)
        except Refusal as refusal:
            return login.page(self._site, request, problem=problem_of(refusal))

    async def _logout(self, visit: Visit) -> web.Response:
        await self._sessions.finish(visit.session)
        return login.left(visit.request)

    def _page(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            return await self._answered(request, handler, is_form=False)

        return guarded

    def _form(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            return await self._answered(request, handler, is_form=True)

        return guarded

    async def _answered(self, request: web.Request, handler: Handler, *, is_form: bool) -> web.StreamResponse:
        visit = await self._visit(request)
        if visit is None:
            return login.required(request)
        await self._load()
        try:
            if is_form:
                forms.require_same_origin(request)
                visit.form = await forms.read(request)
                forms.require_token(visit.form, visit.session.csrf)
            return await handler(visit)
        except Unauthenticated:
            await self._sessions.finish(visit.session)
            return login.required(request)
        except Refusal as refusal:
            return _refused(visit, refusal)

    async def _load(self) -> None:
        if not self._loaded:
            await self._workers.run(self._site.renderer.load)
            self._loaded = True

    async def _visit(self, request: web.Request) -> Visit | None:
        """The visit of a session that is still valid; None if the browser has none."""
        session = await self._sessions.known(request.cookies.get(COOKIE, ""))
        if session is None:
            return None
        try:
            caller = await self._site.calls.identify(session.metadata)
        except Unauthenticated:
            await self._sessions.finish(session)
            return None
        return Visit(site=self._site, request=request, session=session, caller=caller)


def build_dashboard(
    dispatcher: Dispatcher,
    service: object,
    reads: Reads,
    *,
    clock: Clock,
    random: Random,
    workers: Workers,
    providers: Sequence[str] = (),
    kept: KeptSessions | None = None,
) -> Dashboard:
    """The dashboard over the API's dispatcher and service; `providers` are the marketplaces that a form offers.

    `kept`: the sessions of several servers.
    """
    return Dashboard(
        Site(
            calls=Calls(dispatcher, service, reads),
            renderer=Renderer(clock),
            streams=Streams(clock),
            recent=Recent(clock),
            clock=clock,
            random=random,
            providers=providers,
        ),
        workers,
        kept,
    )


def _refused(visit: Visit, refusal: Refusal) -> web.Response:
    """The page of an error; a part of a page if a script asked for one."""
    problem = problem_of(refusal)
    violations = refusal.violations if isinstance(refusal, InvalidArgument) else ()
    template = "_problem.html" if visit.partial else "problem.html"
    name = visit.request.path.removeprefix(ROOT).partition("/")[0]
    section = f"{ROOT}{name}" if name in PAGES else ROOT
    return visit.page(template, status=problem.code, problem=problem, violations=violations, section=section)


async def _missing(visit: Visit) -> web.Response:
    """What a browser gets that asks for no page of the dashboard."""
    return visit.page("missing.html", status=404)


async def _static(request: web.Request) -> web.StreamResponse:
    """A file of the folder `static`. Browsers keep what they asked for by its present version."""
    name = request.match_info["name"]
    if name not in ASSETS:
        raise web.HTTPNotFound
    kept = "public, max-age=31536000, immutable" if request.query.get("v") == VERSION else "no-cache"
    headers = {hdrs.CACHE_CONTROL: kept, hdrs.CONTENT_TYPE: _STATIC_TYPES[Path(name).suffix]}
    return web.FileResponse(STATIC / name, headers=headers)
