"""The dashboard without a browser: who gets in, which forms are accepted, what hostile texts do, who sees buttons."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gpuproxy.adapters.system import SystemRandom, Threads
from gpuproxy.edge.rpc.dispatch import Dispatcher
from gpuproxy.edge.web import costs
from gpuproxy.edge.web.calls import Reads, WebhookLog
from gpuproxy.edge.web.dashboard import FORMS, build_dashboard
from gpuproxy.loadbalancer.left_out import LeftOut, OfferOut, RuleOut
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reservations import TimelineEntry
from gpuproxy.ports import Clock
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import NOW, StubEngine, lease, offer, service_over, view
from tests.edge.http_face import Both, both_faces
from tests.edge.test_service import mine

COOKIE = "gpuproxy_session"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
FRAGMENTS = ("market/offers", "market/prices", "market/left-out")
READABLE = ["", "market", *FRAGMENTS, "reservations", "reservations/7", "keys"]
"""Those that this engine can fill; tests/edge/test_dashboard_deployed.py has all."""


NOTHING_OUT = LeftOut(total=1, fitting=1, rules=())


@asynccontextmanager
async def dashboard(
    engine: StubEngine | None = None,
    timeline: Sequence[TimelineEntry] = (),
    left_out: LeftOut = NOTHING_OUT,
    project: str = "p1",
) -> AsyncIterator[Both]:
    async def read_timeline(_caller: Caller, _reservation_id: str) -> Sequence[TimelineEntry]:
        return timeline

    async def read_project(_caller: Caller, _reservation_id: str) -> str:
        return project

    async def read_left_out(_request: pb.ReserveGPUsRequest, _caller: Caller) -> LeftOut:
        return left_out

    async def read_webhooks() -> WebhookLog:
        return WebhookLog(targets=(), delivered={}, gave_up={}, deliveries=())

    async def read_nothing() -> Sequence[Any]:
        return ()

    def mount(dispatcher: Dispatcher, clock: Clock) -> Callable[[web.Application], None]:
        reads = Reads(
            timeline=read_timeline,
            project=read_project,
            left_out=read_left_out,
            findings=read_nothing,
            passes=lambda: (),
            webhooks=read_webhooks,
            users=read_nothing,
        )
        return build_dashboard(dispatcher, service, reads, clock=clock, random=SystemRandom(), workers=Threads()).mount

    service = service_over(engine or StubEngine())
    async with both_faces(service, mount=mount) as both:
        yield both


class Visitor:
    """A browser that has logged in."""

    def __init__(self, both: Both, cookie: str) -> None:
        self._both = both
        self.cookie = cookie

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        sent = {"Cookie": f"{COOKIE}={self.cookie}", **headers}
        async with self._both.session.get(
            f"{self._both.url}{path}", headers={"Accept-Encoding": "identity"} | sent, allow_redirects=False
        ) as reply:
            return reply.status, (await reply.read()).decode()

    async def post(self, path: str, form: Mapping[str, str], **headers: str) -> tuple[int, str]:
        sent = {"Cookie": f"{COOKIE}={self.cookie}", "Origin": self._both.url, "Accept-Encoding": "identity"}
        async with self._both.session.post(
            f"{self._both.url}{path}", data=form, headers={**sent, **headers}, allow_redirects=False
        ) as reply:
            return reply.status, (await reply.read()).decode()

    async def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get("/ui/"))[1])
        assert found
        return found.group(1)


async def entered(both: Both, form: Mapping[str, str], **headers: str) -> aiohttp.ClientResponse:
    sent = {"Origin": both.url, **headers}
    return await both.session.post(f"{both.url}/ui/login", data=form, headers=sent, allow_redirects=False)


async def logged_in(both: Both, key: str = "gp_user") -> Visitor:
    reply = await entered(both, {"key": key})
    assert reply.status == 303
    return Visitor(both, reply.cookies[COOKIE].value)


# ------------------------------------------------------------------------------------------------------------ sessions


async def test_the_cookie_is_hidden_from_scripts_and_sent_to_the_dashboard_only() -> None:
    async with dashboard() as both:
        cookie = (await entered(both, {"key": "gp_user"})).cookies[COOKIE]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/ui/")
        assert len(cookie.value) >= 43  # 256 bits
        assert not cookie["secure"]
        behind_tls = await entered(both, {"key": "gp_user"}, Origin=both.url.replace("http:", "https:"))
        assert behind_tls.cookies[COOKIE]["secure"]


async def test_a_wrong_key_begins_no_session() -> None:
    async with dashboard() as both:
        for form in ({"key": "gp_wrong"}, {"email": "me@example.org", "password": "wrong"}, {}):
            reply = await entered(both, form)
            assert reply.status in (400, 401)
            assert COOKIE not in reply.cookies
            assert "gp_wrong" not in await reply.text(errors="replace")


@pytest.mark.parametrize("path", ["/ui/", "/ui/market", "/ui/keys", "/ui/costs.csv"])
async def test_nobody_sees_a_page_without_a_session(path: str) -> None:
    async with dashboard() as both:
        for cookie in ("", "made-up"):
            status, text = await Visitor(both, cookie).get(path)
            assert (status, text) == (303, "")


async def test_the_api_ignores_the_cookie() -> None:
    async with dashboard() as both:
        visitor = await logged_in(both)
        for path in ("/api/v1/gpu/instances", "/api/v1/keys", "/api/v1/reservations"):
            assert (await visitor.get(path))[0] == 401
        assert (await visitor.post("/api/v1/gpu/instances/reserve", {"count": "1"}))[0] == 401


async def test_a_session_ends_at_the_logout_and_not_before() -> None:
    async with dashboard() as both:
        visitor = await logged_in(both)
        csrf = await visitor.csrf()
        assert (await visitor.post("/ui/logout", {"csrf": "wrong"}))[0] == 403
        assert (await visitor.get("/ui/"))[0] == 200
        assert (await visitor.post("/ui/logout", {"csrf": csrf}))[0] == 303
        assert (await visitor.get("/ui/"))[0] == 303


@pytest.mark.parametrize(
    "target",
    ["https://evil.example/", "//evil.example/", "/api/v1/keys", "/ui/\\evil.example", "javascript:alert(1)", "/"],
)
async def test_a_login_never_leads_to_another_site(target: str) -> None:
    async with dashboard() as both:
        reply = await both.session.post(
            f"{both.url}/ui/login",
            params={"next": target},
            data={"key": "gp_user"},
            headers={"Origin": both.url},
            allow_redirects=False,
        )
        assert reply.headers["Location"] == "/ui/"


async def test_a_login_leads_back_to_the_page_that_was_asked_for() -> None:
    async with dashboard() as both:
        reply = await both.session.get(f"{both.url}/ui/costs?days=7", allow_redirects=False)
        assert reply.headers["Location"] == "/ui/login?next=%2Fui%2Fcosts%3Fdays%3D7"
        reply = await both.session.post(
            both.url + reply.headers["Location"],
            data={"key": "gp_user"},
            headers={"Origin": both.url},
            allow_redirects=False,
        )
        assert reply.headers["Location"] == "/ui/costs?days=7"


# --------------------------------------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("path", [*FORMS, "logout"])
async def test_a_form_needs_its_secret_and_an_origin_that_is_this_server(path: str) -> None:
    engine = StubEngine()
    async with dashboard(engine) as both:
        visitor = await logged_in(both)
        csrf, whole = await visitor.csrf(), f"/ui/{path.replace('{id}', 'res-1')}"
        other = await (await logged_in(both)).csrf()
        for origin in ("https://evil.example", "null", "", both.url.replace("127.0.0.1", "localhost")):
            assert (await visitor.post(whole, {"csrf": csrf}, Origin=origin))[0] == 403
        for wrong in ({}, {"csrf": ""}, {"csrf": csrf + "x"}, {"csrf": other}, {"csrf": "é"}):
            assert (await visitor.post(whole, wrong))[0] == 403
        assert (await visitor.get(whole))[0] == 404
    changes = {"release", "extend", "create", "revoke", "set_strategy"}
    assert not engine.demands
    assert not changes & {asked[0] for asked in engine.asked}


async def test_what_is_no_form_or_too_long_is_refused() -> None:
    async with dashboard() as both:
        visitor = await logged_in(both)
        csrf = await visitor.csrf()
        json = {"Content-Type": "application/json"}
        assert (await visitor.post("/ui/keys/create", {"csrf": csrf, "name": "n"}, **json))[0] == 400
        assert (await visitor.post("/ui/keys/create", {"csrf": csrf, "name": "n" * 300_000}))[0] == 400
        assert (await visitor.post("/ui/keys/create", {f"f{n}": "1" for n in range(300)}))[0] == 400


async def test_a_wrong_field_is_named_and_nothing_is_rented() -> None:
    engine = StubEngine(offers=[offer(1)])
    async with dashboard(engine) as both:
        visitor = await logged_in(both)
        csrf = await visitor.csrf()
        status, text = await visitor.post("/ui/market/plan", {"csrf": csrf, "count": "many", "max_price": "cheap"})
        assert status == 400
        assert "<code>count</code>" in text
        assert "<code>max_price</code>" in text
        assert not engine.demands


async def test_a_dry_run_rents_nothing_and_the_button_after_it_rents_the_same_once() -> None:
    engine = StubEngine(offers=[offer(1)])
    async with dashboard(engine) as both:
        visitor = await logged_in(both)
        form = {
            "csrf": await visitor.csrf(),
            "count": "2",
            "gpu_model": "rtx4090",
            "ports": "8000, 8080",
            "dry_run": "no",
        }
        form |= {"labels": "team=vision job=7", "wait": "true", "order_by": "price_per_hour"}
        status, text = await visitor.post("/ui/market/plan", form, **{"HX-Request": "true"})
        assert status == 200
        assert engine.demands[-1].dry_run
        kept = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', text))
        for _ in range(2):
            status, _ = await visitor.post("/ui/market/rent", kept)
            assert status == 303
        rented = engine.demands[1:]
        assert [each.dry_run for each in rented] == [False, False]
        assert len({each.request_id for each in rented}) == 1
        assert rented[0].request_id.startswith("web-")
        assert (rented[0].count, dict(rented[0].labels)) == (2, {"team": "vision", "job": "7"})


# --------------------------------------------------------------------------------------------------------------- roles


@pytest.mark.parametrize("path", READABLE)
async def test_a_viewer_sees_each_page_and_no_button_but_the_logout(path: str) -> None:
    async with dashboard(StubEngine(offers=[offer(1)], mine=[mine(1)])) as both:
        status, text = await (await logged_in(both, "gp_viewer")).get(f"/ui/{path}")
        assert status == 200
        forms = re.findall(r'method="post" action="([^"]+)"', text)
        assert forms == ([] if path in FRAGMENTS else ["/ui/logout"])
        assert "hx-post" not in text


async def test_a_viewer_who_sends_a_form_is_refused() -> None:
    engine = StubEngine()
    async with dashboard(engine) as both:
        visitor = await logged_in(both, "gp_viewer")
        csrf = await visitor.csrf()
        for path in ("reservations/res-1/release", "market/rent", "keys/create", "health/strategy"):
            form = {"csrf": csrf, "count": "1", "name": "n", "strategy": "lowest_price"}
            assert (await visitor.post(f"/ui/{path}", form))[0] == 403
    assert not engine.demands


@pytest.mark.parametrize(
    ("key", "project", "links"),
    [("gp_viewer", "p1", True), ("gp_user", "p1", True), ("gp_admin", "p1", True), ("gp_admin", "<b>team", False)],
)
async def test_the_machines_of_a_pool_lead_to_their_pool_and_not_to_the_callers_own_of_this_number(
    key: str, project: str, links: bool
) -> None:
    facts = {"id": "pool-abc", "labels": (("warm_pool", "5"),), "kind": "pool", "project": project}
    async with dashboard(StubEngine(answer=view(lease(1), **facts)), project=project) as both:
        status, text = await (await logged_in(both, key)).get("/ui/reservations/pool-abc")
    assert status == 200
    assert ('href="/ui/pools/5"' in text) == links
    assert ("warm pool 5 of the project &lt;b&gt;team" in text) == (not links)
    assert "/release" not in text
    assert "/extend" not in text


# ------------------------------------------------------------------------------------------------------- hostile texts


async def test_hostile_texts_are_shown_and_never_become_html() -> None:
    rented = mine(1, LeaseState.ACTIVE, location=HOSTILE, gpu_model=HOSTILE)
    entry = TimelineEntry(seq=1, at=NOW, lease_id=HOSTILE, event=HOSTILE, state=HOSTILE, reason=HOSTILE)
    engine = StubEngine(offers=[replace(offer(1), location=HOSTILE, gpu_model=HOSTILE)], mine=[rented])
    out = OfferOut(
        offer_id=HOSTILE,
        host=HOSTILE,
        gpu_model=HOSTILE,
        num_gpus=1,
        location=HOSTILE,
        price_per_gpu_hour=1,
        fact=HOSTILE,
    )
    left_out = LeftOut(total=1, fitting=0, rules=(RuleOut(rule=HOSTILE, total=1, offers=(out,)),))
    async with dashboard(engine, timeline=[entry], left_out=left_out) as both:
        visitor = await logged_in(both)
        pages = [
            "",
            "market",
            "market/offers",
            "market/prices",
            "market/left-out",
            "reservations",
            "reservations/res-1",
            "health",
            "keys",
        ]
        found = "".join([(await visitor.get(f"/ui/{path}"))[1] for path in pages])
        query = "?gpu_model=%3Cscript%3Ealert(1)%3C/script%3E&state=%3Cscript%3E&days=%3Cscript%3E"
        found += "".join([(await visitor.get(f"/ui/{path}{query}"))[1] for path in (*pages, "costs")])
    assert "alert(1)" in found
    assert "<script>" not in found
    assert "<img" not in found
    assert "onerror=alert(2)&gt;" in found


async def test_pages_have_no_inline_script_or_style_and_a_policy_that_allows_none() -> None:
    async with dashboard(StubEngine(offers=[offer(1)], mine=[mine(1)])) as both:
        visitor = await logged_in(both)
        for path in ("/ui/", "/ui/market", "/ui/login", "/ui/keys"):
            async with both.session.get(both.url + path, headers={"Cookie": f"{COOKIE}={visitor.cookie}"}) as reply:
                policy, text = reply.headers["Content-Security-Policy"], (await visitor.get(path))[1]
                assert reply.headers["Cache-Control"] == "no-store"
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert not re.search(r"<script(?![^>]*src=\"/ui/static/)|<style|\sstyle=|\son[a-z]+=|https?://", text)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_a_cell_that_a_spreadsheet_would_run_is_made_a_text(text: str) -> None:
    assert costs.harmless(text) == f"'{text}"


def test_other_cells_stay_as_they_are() -> None:
    assert [costs.harmless(text) for text in ("RTX 4090", "p-1", "2026-06-12", "")] == [
        "RTX 4090",
        "p-1",
        "2026-06-12",
        "",
    ]


# -------------------------------------------------------------------------------------------------------------- static


async def test_static_files_are_served_without_a_session_and_nothing_else_is() -> None:
    async with dashboard() as both:
        visitor = Visitor(both, "")
        login = (await visitor.get("/ui/login"))[1]
        versioned = re.findall(r'"(/ui/static/[^"]+)"', login)
        assert len(versioned) == 6
        for address in versioned:
            async with both.session.get(f"{both.url}{address}") as reply:
                assert (reply.status, "immutable" in reply.headers["Cache-Control"]) == (200, True)
        for name in ("htmx.min.js", "uPlot.iife.min.js", "dashboard.js", "dashboard.css", "icon.svg"):
            assert (await visitor.get(f"/ui/static/{name}"))[0] == 200
        for name in ("LICENSE.htmx", "..%2Fdashboard.py", "", "nothing.js", "a/../dashboard.js/x"):
            assert (await visitor.get(f"/ui/static/{name}"))[0] == 404
        assert (await visitor.get("/ui/static/%2e%2e/calls.py"))[0] == 303  # it is /ui/calls.py: log in first


async def test_an_address_without_a_page_is_a_page_that_says_so() -> None:
    async with dashboard() as both:
        status, text = await (await logged_in(both)).get("/ui/nothing/here")
        assert (status, "There is no such page" in text, "/ui/market" in text) == (404, True, True)
        assert (await Visitor(both, "").get("/ui/nothing"))[0] == 303
