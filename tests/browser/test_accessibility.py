"""Every page in light and dark, on a phone, by keyboard: axe-core finds nothing, nothing is wider than the screen."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.browser.pages import log_in, violations
from tests.browser.test_main_job import release, rent
from tests.system.processes import Market, Server, until

pytestmark = [pytest.mark.long, pytest.mark.sampled(0)]
PAGES = (
    "",
    "market",
    "reservations",
    "pools",
    "pools/new",
    "pools/7",
    "costs?day=1&project=1",
    "health",
    "keys",
    "nothing",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(visitor: Callable[..., Page], server: Server, market: Market, scheme: str):
    with server.client() as client:
        limit = pb.SetSpendingLimitRequest(window="24h", limit=50, policy="warn")
        client.call("SetSpendingLimit", limit)
    page = visitor(color_scheme=scheme)
    page.goto("/ui/login")
    found = violations(page)
    log_in(page, server.key)
    name = rent(page)
    expect(page.locator("#state")).to_have_text("active")
    found += violations(page)
    for path in PAGES:
        page.goto(f"/ui/{path}")
        if path == "market":
            expect(page.locator("#prices")).to_contain_text("Median")
            page.get_by_role("button", name="Dry run").click()
            expect(page.get_by_role("heading", name="Dry run")).to_be_visible()
            page.get_by_role("button", name="Show why offers are left out").click()
            expect(page.locator("#left-out")).to_contain_text("could be rented with these settings")
        for details in page.locator("summary").all():
            details.click()
        found += violations(page)
    page.goto(f"/ui/reservations/{name}")
    release(page)
    until(lambda: not market.alive())
    assert found == []


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_page_is_wider_than_the_screen(visitor: Callable[..., Page], server: Server, width: int):
    phone = width < 500
    page = visitor(viewport={"width": width, "height": 740}, has_touch=phone, is_mobile=phone)
    log_in(page, server.key)
    for path in PAGES:
        page.goto(f"/ui/{path}")
        if path == "market":
            page.get_by_role("button", name="Dry run").click()
            expect(page.get_by_role("heading", name="Dry run")).to_be_visible()
            page.get_by_role("button", name="Show why offers are left out").click()
            expect(page.locator("#left-out")).to_contain_text("could be rented with these settings")
        for details in page.locator("summary").all():
            details.click()
        wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (path, wide) == (path, 0)


def test_the_keyboard_alone_logs_in_and_skips_to_the_content(visitor: Callable[..., Page], server: Server):
    page = visitor()
    page.goto("/ui/login")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(server.key)
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
