"""The pages beside the API calls: health, readiness, metrics and documentation. They need no credentials."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property

import msgspec
from aiohttp import web

from gpuproxy.edge.http.answers import JSON_TYPE
from gpuproxy.edge.http.openapi import document
from gpuproxy.edge.http.reference import POLICY, page
from gpuproxy.health.readiness import OK

Checks = Callable[[], Awaitable[Mapping[str, str]]]
"""Runs the readiness checks; returns the result by name: `ok`, or what is wrong."""
Measured = Callable[[Mapping[str, str]], Awaitable[bytes]]
"""Returns the metrics in the Prometheus text format. Its argument: the results of the readiness checks, by name."""

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Pages:
    """The handlers of the pages. `built` names the implemented calls; the documentation leaves the others out.

    The documentation's examples name the first of `marketplaces`.
    """

    def __init__(
        self, checks: Checks, measured: Measured, built: frozenset[str], marketplaces: Sequence[str] = ()
    ) -> None:
        self.serving = False
        self._checks = checks
        self._measured = measured
        self._built = built
        self._marketplaces = marketplaces

    @property
    def routes(self) -> Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
        """The handlers by path."""
        return {
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/metrics": self._metrics,
            "/openapi.json": self._openapi,
            "/docs": self._reference,
        }

    async def _health(self, _request: web.Request) -> web.Response:
        return _in_json({"status": OK})

    async def _readiness(self, _request: web.Request) -> web.Response:
        checks = await self._all_checks()
        ready = set(checks.values()) == {OK}
        body = {"status": "ready" if ready else "not ready", "checks": checks}
        return _in_json(body, status=200 if ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        body = await self._measured(await self._all_checks())
        return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})

    async def _all_checks(self) -> Mapping[str, str]:
        return {"server": OK if self.serving else "is starting or stopping", **await self._checks()}

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type=JSON_TYPE)

    async def _reference(self, _request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": POLICY}
        return web.Response(body=self._page, content_type="text/html", charset="utf-8", headers=headers)

    @cached_property
    def _document(self) -> bytes:
        return msgspec.json.encode(document(self._built, self._marketplaces))

    @cached_property
    def _page(self) -> bytes:
        return page(document(self._built, self._marketplaces)).encode()


def _in_json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON_TYPE)
