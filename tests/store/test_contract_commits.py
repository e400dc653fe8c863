"""The contract of the database port: what happens after a commit. Each store of `stores` must pass it."""

import asyncio
import threading

import pytest
import structlog

from gpuproxy.model.errors import StatementRefused
from gpuproxy.ports import Database, Tx
from gpuproxy.store import meta
from tests.store.stores import Store


def change(tx: Tx) -> None:
    meta.write(tx, "n", str(int(meta.read(tx, "n") or "0") + 1))
    tx.changed("topic")


async def number(db: Database) -> str | None:
    return await db.read(lambda tx: meta.read(tx, "n"))


# -- after_commit


async def test_a_callback_runs_on_the_loop_when_a_crash_can_not_undo_the_commit_any_more(store: Store, db: Database):
    seen: list[tuple[bool, Database]] = []

    def write(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append((threading.current_thread() is threading.main_thread(), store.crashed())))
        change(tx)
        assert seen == []

    await db.write(write)
    [(on_loop, left)] = seen
    assert on_loop
    assert await number(left) == "1"
    await left.close()


async def test_callbacks_run_once_in_their_order_before_the_writer_goes_on(db: Database):
    seen: list[str] = []

    def write(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append("first"))
        tx.after_commit(lambda: seen.append("second"))

    await db.write(write)
    assert seen == ["first", "second"]


@pytest.mark.parametrize("sql", ["", "SELEC 1", "INSERT INTO meta (key, value) VALUES ('a', NULL)"])
async def test_neither_a_callback_nor_a_watcher_hears_of_a_unit_that_failed(db: Database, sql: str):
    seen: list[str] = []

    def write(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append("called"))
        tx.changed("topic")
        if not sql:
            raise LookupError
        tx.execute(sql)

    async with db.watch("topic") as wakeups:
        with pytest.raises((LookupError, StatementRefused)):
            await db.write(write)
        waiting = asyncio.ensure_future(wakeups.wait())
        await db.write(lambda tx: meta.write(tx, "b", "1"))
        assert not waiting.done()
        waiting.cancel()
    assert seen == []


async def test_a_callback_that_raises_is_logged_and_affects_nothing(db: Database):
    seen: list[str] = []

    def write(tx: Tx) -> str:
        tx.after_commit(lambda: {}["missing"])
        tx.after_commit(lambda: seen.append("next"))
        return "written"

    with structlog.testing.capture_logs() as lines:
        assert await asyncio.gather(db.write(write), db.write(write)) == ["written", "written"]
    assert seen == ["next", "next"]
    assert [line["event"] for line in lines] == ["commit_callback_failed"] * 2


async def test_a_callback_runs_in_the_context_of_its_writer(db: Database):
    seen: list[object] = []

    def write(tx: Tx) -> None:
        tx.after_commit(lambda: seen.append(structlog.contextvars.get_contextvars().get("trace_id")))

    with structlog.contextvars.bound_contextvars(trace_id="t1"):
        await db.write(write)
    await db.write(write)
    assert seen == ["t1", None]


async def test_a_unit_runs_in_the_context_of_its_writer(db: Database):
    def trace(_tx: Tx) -> object:
        return structlog.contextvars.get_contextvars().get("trace_id")

    with structlog.contextvars.bound_contextvars(trace_id="t1"):
        assert await db.write(trace) == "t1"
    assert await db.write(trace) is None


# -- watching


async def test_a_change_between_the_subscription_and_the_wait_is_not_missed(db: Database):
    async with db.watch("topic") as wakeups:
        await db.write(change)
        await wakeups.wait()
    assert await number(db) == "1"


async def test_a_change_between_two_waits_is_not_missed_and_several_are_one(db: Database):
    async with db.watch("topic") as wakeups:
        await db.write(change)
        await wakeups.wait()
        await db.write(change)
        await db.write(change)
        await wakeups.wait()
        waiting = asyncio.ensure_future(wakeups.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def test_a_change_before_the_subscription_and_of_another_topic_wakes_nobody(db: Database):
    await db.write(change)
    async with db.watch("topic") as wakeups:
        waiting = asyncio.ensure_future(wakeups.wait())
        await db.write(lambda tx: tx.changed("another"))
        assert not waiting.done()
        await db.write(change)
        await waiting


async def test_every_watcher_of_a_topic_is_woken_and_one_that_left_is_not(db: Database):
    async with db.watch("topic") as first, db.watch("topic") as second:
        async with db.watch("topic") as gone:
            pass
        await db.write(change)
        await first.wait()
        await second.wait()
        waiting = asyncio.ensure_future(gone.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()


async def test_a_watcher_that_reads_after_each_wakeup_sees_the_last_change(db: Database):
    seen: list[str | None] = []

    async def follow() -> None:
        async with db.watch("topic") as wakeups:
            seen.append(await number(db))
            while seen[-1] != "100":
                await wakeups.wait()
                seen.append(await number(db))

    following = asyncio.ensure_future(follow())
    await asyncio.gather(*(db.write(change) for _ in range(100)))
    await following
    assert seen[-1] == "100"
