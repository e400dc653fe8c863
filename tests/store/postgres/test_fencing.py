"""A takeover never slips in between the check of a claim and the write that it allows: two servers, two threads."""

import asyncio
import threading
import time

import psycopg
import pytest

from gpuproxy.model.errors import ClaimLost
from gpuproxy.ports import Tx
from gpuproxy.store import claims, meta
from gpuproxy.store.claims import Claim
from tests import postgres

NAME = "account:p:a"
_MOST = 200
"""Seconds until a hanging test fails."""


async def test_a_takeover_waits_for_a_write_that_has_been_allowed_and_the_next_one_is_refused():
    url = postgres.fresh()
    first, second = (postgres.opened(url, threads=True) for _ in range(2))
    old = await first.write(lambda tx: claims.take(tx, NAME, "a", 3600))
    assert old is not None
    checked = threading.Event()

    def write(tx: Tx) -> None:
        claims.require(tx, old)
        checked.set()
        with psycopg.connect(url, autocommit=True) as watching:
            waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while watching.execute(waits).fetchone() is None:
                time.sleep(0.05)
        meta.write(tx, "written", f"under {old.fence}")

    def take_over(tx: Tx) -> tuple[str | None, Claim | None]:
        tx.execute("UPDATE claims SET until = 0")
        return meta.read(tx, "written"), claims.take(tx, NAME, "b", 3600)

    writing = asyncio.ensure_future(first.write(write))
    await asyncio.to_thread(checked.wait, _MOST)
    seen, new = await second.write(take_over)
    await writing
    assert (seen, new and new.fence) == ("under 1", 2)

    def stale(tx: Tx) -> None:
        meta.write(tx, "written", "too late")
        claims.require(tx, old)

    with pytest.raises(ClaimLost):
        await first.write(stale)
    assert await second.read(lambda tx: meta.read(tx, "written")) == "under 1"
    for db in (first, second):
        await db.close()
