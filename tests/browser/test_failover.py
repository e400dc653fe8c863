"""A warm pool by clicking: created after a dry run, its failover watched live without a reload, cleaned up."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.browser.pages import Watched, log_in, violations
from tests.system.processes import KIND, UNPACED, Market, Server, until

pytestmark = [pytest.mark.long, pytest.mark.sampled(0)]
Visitor = Callable[..., Page]


def plan_pool(page: Page) -> None:
    """Plans a warm pool by clicking, up to the button that creates it."""
    page.get_by_role("link", name="Warm pools").click()
    page.get_by_role("link", name="New warm pool").click()
    page.get_by_label("$ per GPU and hour").fill("5")
    page.get_by_role("button", name="Show hosts").click()
    expect(page.get_by_role("radio").first).to_be_checked()
    page.get_by_text("More about the pool").click()
    page.get_by_label("Start script").fill("sleep 100000")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#plan")).to_contain_text("nothing was rented")
    expect(page.locator("#plan")).to_contain_text("stopped: only its disk is paid for")


def clean_up(page: Page) -> None:
    """Destroys everything of the pool by clicking."""
    page.get_by_label("Its volumes").select_option("are deleted, with their data")
    page.get_by_label("All its machines are destroyed").check()
    page.get_by_role("button", name="Clean up").click()
    expect(page.locator("#state")).to_have_text("disabled")


def status_of(server: Server) -> pb.WarmPoolStatus:
    with server.client() as client:
        status: pb.WarmPoolStatus = client.call("GetWarmPoolStatus", pb.GetWarmPoolStatusRequest(machine_id=1))
        return status


def test_a_pool_is_created_by_clicking_and_its_failover_is_shown_as_it_happens(browser: Browser, tmp_path: Path):
    options = (*KIND, "--boot-time", "2,4", "--boot-scripts", "ours")
    with Market(tmp_path, *options) as market, Server(tmp_path, market, **UNPACED) as server:
        watched = Watched(server.http)
        with server.client() as client:
            until(client.knows_offers)
        page = log_in(watched.page(browser), server.key)
        plan_pool(page)
        assert violations(page) == []
        assert not market.alive()
        page.get_by_role("button", name=re.compile("Create warm pool 1 for about")).click()
        page.wait_for_url("**/ui/pools/1")
        expect(page.locator("#state")).to_have_text("active")
        assert violations(page) == []
        before = status_of(server)
        market.control("POST", f"instances/{before.primary_gpu_id}/kill", {"how": "container"})
        expect(page.locator("#state")).to_have_text(re.compile("failover|degraded"))
        expect(page.locator("#pool")).to_contain_text("Failovers and drills, by phase")
        expect(page.locator("#pool table").first).to_contain_text("failure")
        expect(page.locator("#pool")).to_contain_text(str(before.standby_gpu_id))
        expect(page.locator("#pool")).to_contain_text("95th percentile")
        assert violations(page) == []
        clean_up(page)
        until(lambda: not market.alive())
        assert not [each for each in market.state()["volumes"] if each["deleted_at"] is None]
        watched.close()
        assert watched.complaints == []
