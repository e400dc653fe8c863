"""The dashboard over a whole deployment: all pages, a rental and its timeline, the CSV, live parts that end in time."""

import asyncio
import csv
import io
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gpuproxy.edge.web.dashboard import PAGES
from tests.deployed import Deployed, deployed

pytestmark = pytest.mark.long
COOKIE = "gpuproxy_session"
SECONDS = 120.0
"""It only ends what hangs."""
PROJECT = "=cmd|<b>"


class Visitor:
    """A browser that has logged in with a key of its own."""

    def __init__(self, served: Deployed, key_id: str, cookie: str) -> None:
        self.served = served
        self.key_id = key_id
        self.headers = {"Cookie": f"{COOKIE}={cookie}", "Origin": served.url}

    async def get(self, path: str) -> tuple[int, str]:
        async with self.served.web.get(
            f"{self.served.url}/ui/{path}", headers=self.headers, allow_redirects=False
        ) as reply:
            return reply.status, await reply.text()

    async def post(self, path: str, **form: str) -> aiohttp.ClientResponse:
        found = re.search(r'name="csrf" value="([^"]+)"', (await self.get(""))[1])
        assert found
        return await self.served.web.post(
            f"{self.served.url}/ui/{path}",
            data={"csrf": found.group(1), **form},
            headers=self.headers,
            allow_redirects=False,
        )

    @asynccontextmanager
    async def live(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a live part."""
        headers = {**self.headers, "Accept": "text/event-stream"}
        async with self.served.web.get(f"{self.served.url}/ui/{path}", headers=headers) as reply:
            yield aiter(reply.content)


async def visitor(served: Deployed, role: str = "user", project: str = PROJECT) -> Visitor:
    made = await served.access.keys.create(project, f"{role} key", role)  # type: ignore[arg-type]
    reply = await served.web.post(
        f"{served.url}/ui/login", data={"key": made.text}, headers={"Origin": served.url}, allow_redirects=False
    )
    return Visitor(served, made.row.id, reply.cookies[COOKIE].value)


async def until(lines: AsyncIterator[bytes], words: str) -> None:
    async with asyncio.timeout(SECONDS):
        async for line in lines:
            if words in line.decode():
                return
    raise AssertionError(f"the stream ended before {words!r}")


async def test_each_page_opens_for_each_role_and_a_viewer_has_no_form_but_the_logout(tmp_path: Path) -> None:
    async with deployed(tmp_path) as served:
        await served.access.users.create("boss@example.org", "correct horse battery", project="p2", role="admin")
        for role in ("viewer", "user", "admin"):
            browser = await visitor(served, role)
            for path in PAGES:
                if "live" in path or "reservations/" in path or path == "costs.csv":
                    continue
                status, text = await browser.get(path.replace("{id}", "7"))
                assert (path, status) == (path, 200)
                forms = set(re.findall(r'method="post" action="([^"]+)"', text))
                assert role != "viewer" or forms <= {"/ui/logout"}
                assert ("Findings" in text) == (role == "admin" and path == "health")
                assert ("boss@example.org" in text) == (role == "admin" and path == "keys")
                assert "argon2" not in text


async def test_a_rental_is_followed_live_to_its_release_and_then_in_the_csv(tmp_path: Path) -> None:
    async with deployed(tmp_path) as served:
        browser = await visitor(served)
        stranger = await visitor(served, project="p2")
        answer = await browser.post("market/rent", count="2", min_vram="16", lease_duration="24h", request_id="web-1")
        assert answer.status == 303
        path = answer.headers["Location"].removeprefix("/ui/")
        again = await browser.post("market/rent", count="2", min_vram="16", lease_duration="24h", request_id="web-1")
        assert again.headers["Location"] == answer.headers["Location"]
        async with browser.live(f"{path}/live") as lines:
            await until(lines, "created → ")
            assert (await stranger.get(path))[0] == 404
            assert (await stranger.post(f"{path}/release")).status == 404
            assert (await stranger.post(f"{path}/extend", hours="1")).status == 404
            assert (await browser.post(f"{path}/extend", hours="nan")).status == 400
            assert (await browser.post(f"{path}/release")).status == 303
            await until(lines, "released")
        status, text = await browser.get("costs.csv?project=1&day=1")
        rows = list(csv.reader(io.StringIO(text)))
        assert (status, rows[0]) == (200, ["day", "project", "usd", "gpu_hours"])
        assert {row[1] for row in rows[1:]} <= {f"'{PROJECT}"}


async def test_a_session_and_its_live_parts_end_when_its_key_is_revoked_and_others_do_not(tmp_path: Path) -> None:
    async with deployed(tmp_path) as served:
        browser, other = await visitor(served), await visitor(served)
        async with browser.live("now/live") as lines, other.live("now/live") as others:
            await until(lines, "Nothing is rented")
            await until(others, "Nothing is rented")
            await served.access.keys.revoke(None, browser.key_id)
            await until(lines, "event: ended")
        assert (await browser.get(""))[0] == 303
        assert (await other.get(""))[0] == 200


async def test_an_extension_that_is_sent_twice_moves_the_end_once(tmp_path: Path) -> None:
    async with deployed(tmp_path) as served:
        browser = await visitor(served)
        answer = await browser.post("market/rent", count="1", lease_duration="24h", request_id="web-2")
        path = answer.headers["Location"].removeprefix("/ui/")
        async with browser.live(f"{path}/live") as lines:
            await until(lines, "created → ")
        found = re.search(r'name="from" value="([^"]+)"', (await browser.get(path))[1])
        assert found
        for _ in range(2):
            assert (await browser.post(f"{path}/extend", hours="24", **{"from": found.group(1)})).status == 303
        assert "in 47 h" in (await browser.get(path))[1]
        for late in ("9998-12-31T23:00:00+00:00", "9999-12-31T23:00:00+00:00", "9999-12-31T23:00:00-05:00"):
            assert (await browser.post(f"{path}/extend", hours="24", **{"from": late})).status == 400, late
        for wrong in ("0001-01-01T00:00:00+05:00", "soon"):
            assert (await browser.post(f"{path}/extend", hours="24", **{"from": wrong})).status == 400, wrong
        assert "in 47 h" in (await browser.get(path))[1]
        await browser.post(f"{path}/release")
