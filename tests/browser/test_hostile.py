"""Hostile texts in a real browser: they are shown, and nothing of them runs. A tab without a session can do nothing."""

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Dialog, Page, expect

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.browser.pages import log_in
from tests.browser.test_main_job import release
from tests.system.processes import Market, Server, until

pytestmark = [pytest.mark.long, pytest.mark.sampled(0)]
Visitor = Callable[..., Page]
HOSTILE = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"
SHORT = "<img src=x onerror=alert(3)>"
PATHS = (
    "",
    "reservations",
    "keys",
    "health",
    "costs?day=1&project=1&model=1",
    f"market?gpu_model={quote(HOSTILE)}&location={quote(HOSTILE)}&image={quote(HOSTILE)}",
    f"pools/new?gpu_name={quote(HOSTILE)}&image={quote(HOSTILE)}",
    f"reservations/{quote(HOSTILE, safe='')}",
    f"pools/{quote(HOSTILE, safe='')}",
    f"nothing/{quote(HOSTILE)}",
)


def test_hostile_texts_are_shown_and_never_run(visitor: Visitor, server: Server, market: Market):
    with server.client() as client:
        until(client.knows_offers)
        client.call("CreateAPIKey", pb.CreateAPIKeyRequest(name=SHORT))
        wanted = pb.ReserveGPUsRequest(count=1, max_price=5.0, labels={"note": SHORT}, request_id="hostile")
        made = client.call("ReserveGPUs", wanted)
    page = log_in(visitor(), server.key)
    opened: list[str] = []

    def note(dialog: Dialog) -> None:
        opened.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    seen = ""
    for path in (*PATHS, f"reservations/{made.reservation_id}"):
        answer = page.goto(f"/ui/{path}")
        assert answer is not None
        seen += page.content()
        assert page.locator("img").count() == 0, path
        assert page.locator("script:not([src])").count() == 0, path
    assert seen.count("onerror=alert(") > 5
    page.get_by_role("link", name="Market", exact=True).click()
    page.get_by_label("GPU model").fill(HOSTILE)
    page.get_by_role("button", name="Show why offers are left out").click()
    expect(page.locator("#left-out")).to_contain_text("another GPU model")
    assert opened == []
    page.goto(f"/ui/reservations/{made.reservation_id}")
    release(page)
    until(lambda: not market.alive())


def test_a_tab_whose_session_has_ended_sends_no_form(visitor: Visitor, server: Server, market: Market):
    first = log_in(visitor(), server.key, "/ui/market")
    first.get_by_role("button", name="Dry run").click()
    expect(first.locator("#rent")).to_be_visible()
    second = visitor(like=first)
    second.goto("/ui/")
    second.get_by_role("button", name="Log out").click()
    second.wait_for_url("**/ui/login")
    first.bring_to_front()
    first.locator("#rent").click()
    first.wait_for_url(re.compile(r"/ui/login\?ended"))
    expect(first.get_by_text("Your session has ended")).to_be_visible()
    assert not market.alive()


def test_a_part_of_a_page_asked_for_without_a_session_leads_to_the_login(visitor: Visitor, server: Server):
    page = log_in(visitor(), server.key, "/ui/market")
    page.context.clear_cookies()
    page.get_by_role("button", name="Dry run").click()
    page.wait_for_url(re.compile(r"/ui/login\?ended"))
