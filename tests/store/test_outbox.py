"""Events of the outbox are committed with their facts, in one order, and only for targets that want them."""

from dataclasses import replace

import pytest

from gpuproxy.model.webhooks import EventType, Target
from gpuproxy.ports import Database, Tx
from gpuproxy.store import outbox
from tests import databases
from tests.virtual_time import VirtualClock, run_virtual

OPS = Target(name="ops", url="https://ops.example", events=frozenset({EventType.LOST, EventType.DIED}))


async def prepared(clock: VirtualClock, *targets: Target) -> databases.AnyDatabase:
    db = databases.opened(clock.now)
    await db.write(lambda tx: outbox.use_targets(tx, targets or (OPS,)))
    return db


async def rows(db: Database) -> list[tuple[str, int, str]]:
    found = await db.read(lambda tx: outbox.listed(tx, "", 100))
    return [(each.target, each.seq, each.type.value) for each in found]


def test_an_event_is_in_the_database_with_the_commit_of_its_fact():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock)
        await db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {"n": 1}))
        assert await rows(db) == [("ops", 1, "reservation.lost")]
        await db.close()

    run_virtual(story)


def test_an_event_of_a_unit_that_fails_does_not_exist_and_uses_no_number():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock)

        def fails(tx: Tx) -> None:
            outbox.tell(tx, EventType.LOST, "p1", {"n": 1})
            raise LookupError

        with pytest.raises(LookupError):
            await db.write(fails)
        await db.write(lambda tx: outbox.tell(tx, EventType.DIED, "p1", {"n": 2}))
        assert await rows(db) == [("ops", 1, "reservation.died")]
        await db.close()

    run_virtual(story)


def test_an_event_has_one_id_for_all_targets_and_no_other_event_has_it():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock, OPS, replace(OPS, name="slack"))
        for _ in range(2):
            await db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {"n": 1}))
        found = await db.read(lambda tx: outbox.listed(tx, "", 100))
        assert [(each.seq, each.target) for each in found] == [(2, "ops"), (2, "slack"), (1, "ops"), (1, "slack")]
        assert len({each.event_id for each in found}) == 2
        await db.close()

    run_virtual(story)


def test_a_number_is_not_used_again_after_its_event_was_deleted():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock)
        await db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {}))
        first = await db.read(lambda tx: outbox.head(tx, "ops"))
        assert first is not None
        await db.write(lambda tx: outbox.delivered(tx, first, 200))
        await clock.sleep(10)
        assert await db.write(lambda tx: outbox.prune(tx, clock.now())) == 1
        await db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {}))
        assert await rows(db) == [("ops", 2, "reservation.lost")]
        await db.close()

    run_virtual(story)


def test_what_waits_is_not_deleted():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock)
        await db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {}))
        await clock.sleep(10)
        assert await db.write(lambda tx: outbox.prune(tx, clock.now())) == 0
        await db.close()

    run_virtual(story)


def test_a_result_that_comes_after_another_try_is_not_recorded():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock)
        await db.write(lambda tx: outbox.tell(tx, EventType.LOST, "p1", {}))
        head = await db.read(lambda tx: outbox.head(tx, "ops"))
        assert head is not None
        first = await db.write(lambda tx: outbox.trying(tx, head, clock.now()))
        second = await db.write(lambda tx: outbox.trying(tx, first, clock.now()))
        await db.write(lambda tx: outbox.failed(tx, first, 500, "it answered 500", clock.now()))
        found = await db.read(lambda tx: outbox.head(tx, "ops"))
        assert found == second
        await db.write(lambda tx: outbox.delivered(tx, second, 200))
        assert await db.read(lambda tx: outbox.head(tx, "ops")) is None
        await db.close()

    run_virtual(story)


def test_an_event_that_nobody_wants_is_not_written():
    async def story(clock: VirtualClock) -> None:
        db = await prepared(clock, OPS, replace(OPS, name="p2", project="p2"))
        await db.write(lambda tx: outbox.tell(tx, EventType.UNKNOWN, "p1", {}))
        assert await rows(db) == []
        await db.write(lambda tx: outbox.tell(tx, EventType.DIED, "", {}))
        assert await rows(db) == [("ops", 1, "reservation.died")]
        await db.close()

    run_virtual(story)
