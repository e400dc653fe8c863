"""Pictures of the dashboard on a simulated market, into docs/dashboard/: `make screenshots`."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.pages import chromium, log_in
from tests.browser.test_failover import plan_pool
from tests.browser.test_main_job import release, rent
from tests.system.processes import KIND, UNPACED, Market, Server

TARGET = Path(__file__).resolve().parent.parent / "docs" / "dashboard"
_SIZE = {"width": 1280, "height": 900}


def main() -> int:
    """0 when all pictures are taken."""
    TARGET.mkdir(exist_ok=True)
    expect.set_options(timeout=60_000)
    with (
        tempfile.TemporaryDirectory() as folder,
        Market(Path(folder), *KIND, "--boot-time", "2,4", "--boot-scripts", "ours") as market,
    ):
        _pictures(Path(folder), market)
    return 0


def _pictures(folder: Path, market: Market) -> None:
    with Server(folder, market, **UNPACED) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        context = browser.new_context(base_url=f"http://{server.http.removeprefix('http://')}", viewport=_SIZE)
        _tour(context.new_page(), server)
        browser.close()


def _tour(page: Page, server: Server) -> None:
    log_in(page, server.key)
    name = rent(page, 4)
    expect(page.locator("#state")).to_have_text("active")
    _take(page, "reservation")
    page.goto("/ui/")
    _take(page, "now")
    page.emulate_media(color_scheme="dark")
    _take(page, "now-dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 780})
    _take(page, "now-phone")
    page.set_viewport_size(_SIZE)
    page.goto("/ui/market?gpu_model=rtx4090&min_vram=16&verified_only=true&count=2&lease_duration=24h")
    expect(page.locator("#prices")).to_contain_text("Median")
    page.get_by_role("button", name="Dry run").click()
    expect(page.get_by_role("heading", name="Dry run")).to_be_visible()
    _take(page, "market", whole=True)
    page.get_by_role("button", name="Show why offers are left out").click()
    page.locator("#left-out summary").nth(1).click()
    page.locator("#left-out").screenshot(path=TARGET / "left-out.png")
    print("docs/dashboard/left-out.png")
    for path in ("costs?day=1&model=1", "health", "keys", "reservations"):
        page.goto(f"/ui/{path}")
        _take(page, path.partition("?")[0])
    plan_pool(page)
    _take(page, "new-pool", whole=True)
    page.locator("#create").click()
    page.wait_for_url("**/ui/pools/1")
    expect(page.locator("#state")).to_have_text("active")
    page.get_by_label("restarts").check()
    page.get_by_role("button", name="Test the failover").click()
    expect(page.locator("#pool")).to_contain_text("Failovers and drills, by phase")
    expect(page.locator("#state")).to_have_text("active")
    _take(page, "pool", whole=True)
    page.goto(f"/ui/reservations/{name}")
    release(page)
    expect(page.locator("#state")).to_have_text("released")


def _take(page: Page, name: str, *, whole: bool = False) -> None:
    page.evaluate("() => scrollTo(0, 0)")
    size = page.viewport_size or _SIZE
    height = min(page.evaluate("() => document.documentElement.scrollHeight"), 2600) if whole else size["height"]
    page.set_viewport_size({"width": size["width"], "height": height})
    page.screenshot(path=TARGET / f"{name}.png")
    page.set_viewport_size(size)
    print(f"docs/dashboard/{name}.png")


if __name__ == "__main__":
    sys.exit(main())
