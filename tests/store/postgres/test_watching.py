"""A watcher on one server hears what another one changes: by a notification, and without one after a poll."""

import asyncio

import pytest

from gpuproxy.ports import Tx
from gpuproxy.store import meta
from gpuproxy.store.postgres.database import PostgresDatabase
from tests import pgbouncer, postgres


def change(tx: Tx) -> None:
    meta.write(tx, "n", str(int(meta.read(tx, "n") or "0") + 1))
    tx.changed("topic")


def server(url: str, poll: float) -> PostgresDatabase:
    return PostgresDatabase(url, f"server-{poll}", unsafe=True, poll=poll)


@pytest.mark.parametrize("how", ["notified", "polling", "polling behind a pooler"])
async def test_a_change_on_another_server_wakes_a_watcher(how: str):
    """With an hour between two polls, only a notification can wake it."""
    url = postgres.fresh()
    place = pgbouncer.through(url) if "pooler" in how else url
    watching, writing = server(place, 3600.0 if how == "notified" else 0.05), postgres.opened(place, threads=True)
    async with watching.watch("topic") as wakeups, watching.watch("another") as others:
        waiting, other = asyncio.ensure_future(wakeups.wait()), asyncio.ensure_future(others.wait())
        while not waiting.done():
            await writing.write(change)  # a notification before the first LISTEN is nobody's
            await asyncio.wait([waiting], timeout=0.3)
        assert await watching.read(lambda tx: meta.read(tx, "n")) != "0"
        assert not other.done()
        other.cancel()
    await writing.close()
    await watching.close()


async def test_changes_that_were_swept_before_they_were_read_wake_everybody():
    url = postgres.fresh()
    writing = postgres.opened(url)
    await writing.write(change)
    watching = postgres.opened(url, threads=True)
    async with watching.watch("another") as wakeups:
        await writing.write(lambda tx: tx.execute("DELETE FROM changes"))
        await writing.write(change)
        await asyncio.wait_for(wakeups.wait(), 60)
    await watching.close()
    await writing.close()


async def test_a_server_is_known_to_others_while_it_runs():
    url = postgres.fresh()
    asking, running = postgres.opened(url), postgres.opened(url, threads=True)
    while not await asking.others():  # noqa: ASYNC110 - a thread says it
        await asyncio.sleep(0.02)
    assert not await running.others()
    await running.close()
    assert not await asking.others()
    await asking.close()
