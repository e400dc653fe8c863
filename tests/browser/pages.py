"""What the browser tests share: opening pages that are watched, logging in, and judging accessibility."""

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

AXE = Path(__file__).resolve().parents[2] / ".browser" / "axe.min.js"
SECONDS = 120.0
"""It only ends what hangs."""
_REPORT = """
document.addEventListener('securitypolicyviolation', (event) => {
  console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
});
"""


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert found, "no Chromium is installed (apt install chromium), and CHROMIUM names none"
    return found


class Watched:
    """Opens pages and writes down all that none of them may do."""

    def __init__(self, server: str) -> None:
        self.server = server if server.startswith("http") else f"http://{server}"
        self.complaints: list[str] = []
        self._contexts: list[BrowserContext] = []

    def page(self, browser: Browser, *, like: Page | None = None, **options: Any) -> Page:
        """A page in a browser profile of its own, or in another tab of `like`."""
        if like is None:
            context = browser.new_context(base_url=self.server, **options)
            context.add_init_script(_REPORT)
            context.set_default_timeout(SECONDS * 1000)
            self._contexts.append(context)
        else:
            context = like.context
        expect.set_options(timeout=SECONDS * 1000)
        page = context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("request", self._request)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _console(self, message: ConsoleMessage) -> None:
        page = message.page
        of_page_itself = page is not None and message.location.get("url") == page.url
        if of_page_itself and message.text.startswith("Failed to load resource"):
            return  # the page says what is wrong with its address
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.netloc != urlsplit(self.server).netloc:
            self.complaints.append(f"request to {request.url}")


def log_in(page: Page, key: str, path: str = "/ui/") -> Page:
    page.goto(path)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in with the key").click()
    page.wait_for_url("**/ui/**")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()
    return page


def violations(page: Page) -> list[str]:
    """What axe-core finds, one line each."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document)")
    return [
        f"{page.url} {each['id']} {node['target']} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
