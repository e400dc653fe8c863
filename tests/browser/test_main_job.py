"""The main job by clicking: log in, filter, dry run, rent, watch it become active, see it on Now, release."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import log_in
from tests.system.processes import Market, Server, until

pytestmark = [pytest.mark.long, pytest.mark.sampled(0)]
Visitor = Callable[..., Page]


def rent(page: Page, gpus: int = 1) -> str:
    """Rents by clicking; returns the reservation's id."""
    page.get_by_role("link", name="Market", exact=True).click()
    page.get_by_label("GPUs, 1 to 16").fill(str(gpus))
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_role("heading", name="Dry run")).to_be_visible()
    page.locator("#rent").click()
    page.wait_for_url("**/ui/reservations/res-*")
    return page.url.rpartition("/")[2]


def release(page: Page) -> None:
    page.get_by_label("are destroyed").check()
    page.get_by_role("button", name="Release everything").click()


def test_four_gpus_are_rented_watched_and_released_by_clicking(visitor: Visitor, server: Server, market: Market):
    page = visitor()
    page.goto("/")
    page.wait_for_url("**/ui/login")
    log_in(page, server.key)
    expect(page.get_by_text("Nothing is rented")).to_be_visible()

    page.get_by_role("link", name="Market", exact=True).click()
    page.get_by_label("Memory per GPU").fill("16")
    page.get_by_role("button", name="Show offers").click()
    expect(page.locator("#offers")).to_contain_text("GPUs can be rented at once")
    expect(page.locator("#prices")).to_contain_text("Median")

    page.get_by_label("GPUs, 1 to 16").fill("4")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#plan")).to_contain_text("nothing was rented")
    expect(page.locator("#plan")).to_contain_text("Cheapest alternative")
    assert not market.alive()
    page.get_by_role("button", name=re.compile("Rent 4 GPUs for about")).click()

    page.wait_for_url("**/ui/reservations/res-*")
    expect(page.locator("#state")).to_have_text("active")
    expect(page.locator("#reservation")).to_contain_text("4 of 4")
    expect(page.locator("#reservation")).to_contain_text("ssh -p")
    assert len(market.alive()) >= 1

    page.get_by_role("link", name="Now", exact=True).click()
    expect(page.locator("#now")).to_contain_text("Billed per hour now")
    page.locator("#now table a").first.click()
    release(page)
    expect(page.locator("#state")).to_have_text("released")
    until(lambda: not market.alive())
    page.get_by_role("link", name="Now", exact=True).click()
    expect(page.get_by_text("Nothing is rented")).to_be_visible()


def test_an_email_address_and_a_password_log_in(visitor: Visitor):
    page = visitor()
    page.goto("/ui/costs")
    page.get_by_label("Email address").fill("boss@example.org")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Log in", exact=True).click()
    page.wait_for_url("**/ui/costs")
    expect(page.get_by_role("heading", name="Costs")).to_be_visible()


def test_two_tabs_show_the_same_and_a_logout_ends_both(visitor: Visitor, server: Server, market: Market):
    first = log_in(visitor(), server.key)
    second = visitor(like=first)
    second.goto("/ui/")
    expect(second.get_by_text("Nothing is rented")).to_be_visible()
    name = rent(first)
    second.bring_to_front()
    expect(second.locator("#now")).to_contain_text(name)
    second.goto(f"/ui/reservations/{name}")
    release(second)
    expect(second.locator("#state")).to_have_text(re.compile("releas"))
    first.bring_to_front()
    expect(first.locator("#state")).to_have_text("released")
    first.get_by_role("link", name="Now", exact=True).click()
    second.goto("/ui/")
    second.get_by_role("button", name="Log out").click()
    first.wait_for_url("**/ui/login**")
    until(lambda: not market.alive())


def test_a_live_page_goes_to_the_login_when_its_key_is_revoked(visitor: Visitor, server: Server):
    admin = log_in(visitor(), server.key)
    admin.get_by_role("link", name="Keys").click()
    admin.get_by_label("Name of a new key").fill("short-lived")
    admin.get_by_role("button", name="Create a key").click()
    key = admin.locator("#new-key").inner_text()
    guest = log_in(visitor(), key)
    row = admin.get_by_role("row", name=re.compile("short-lived"))
    row.get_by_label("sure").check()
    row.get_by_role("button", name="Revoke short-lived").click()
    guest.wait_for_url("**/ui/login?ended")
    expect(guest.get_by_text("Your session has ended")).to_be_visible()


def test_a_viewer_sees_no_button_that_changes_anything(visitor: Visitor, server: Server):
    admin = log_in(visitor(), server.key, "/ui/keys")
    admin.get_by_label("Name of a new key").fill("viewer")
    admin.get_by_label("Role").select_option("viewer")
    admin.get_by_role("button", name="Create a key").click()
    viewer = log_in(visitor(), admin.locator("#new-key").inner_text())
    for path in ("", "market", "reservations", "pools", "pools/7", "costs", "health", "keys"):
        viewer.goto(f"/ui/{path}")
        assert viewer.locator("form[method=post]").count() == 1  # the logout
        assert viewer.locator("[hx-post]").count() == 0
