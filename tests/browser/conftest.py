"""Tests in a real browser: Debian's Chromium, driven by Playwright. `make browser` installs what they need.

Without BROWSER=1 none of them is collected.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if os.environ.get("BROWSER") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    from playwright.sync_api import Browser, Page, sync_playwright

    from tests.browser.pages import Watched, chromium
    from tests.system.processes import KIND, UNPACED, Market, Server

    @pytest.fixture(scope="session")
    def browser() -> Iterator[Browser]:
        with sync_playwright() as playwright:
            opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            yield opened
            opened.close()

    @pytest.fixture(scope="module")
    def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
        with Market(
            tmp_path_factory.mktemp("market"), *KIND, "--boot-time", "2,4", "--create-latency", "0.2"
        ) as opened:
            yield opened

    @pytest.fixture(scope="module")
    def server(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        folder: Path = tmp_path_factory.mktemp("server")
        people = {"GPUPROXY_ADMIN_EMAIL": "boss@example.org", "GPUPROXY_ADMIN_PASSWORD": "correct horse battery"}
        with Server(folder, market, **UNPACED, **people) as opened:
            yield opened

    @pytest.fixture
    def visitor(browser: Browser, server: Server) -> Iterator[Callable[..., Page]]:
        """Opens pages; at the end none of them may have broken the policy, failed, or asked a foreign host."""
        watched = Watched(server.http)
        yield lambda **how: watched.page(browser, **how)
        watched.close()
        assert watched.complaints == []
