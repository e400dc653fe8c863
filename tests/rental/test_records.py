"""Stored data follows from the events: counters, locked keys, meters."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Conflict, IllegalTransition, Refusal
from gpuproxy.model.lease_events import Absent, Ready, Release
from gpuproxy.model.leases import LOCKS_KEYS, LeaseEvent, LeaseState, after
from gpuproxy.ports import Tx
from gpuproxy.store import counters, leases
from gpuproxy.store.rows import LIVE_SQL
from tests import databases
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")


def test_counters_recomputed_from_the_leases_equal_the_stored_ones():
    async def story(world: World) -> None:
        dice = random.Random(3)
        made = []
        for _ in range(12):
            made.append(await world.reserve(dice.choice((1, 2, 4))))
            if dice.random() < 0.4:
                await world.engine.reservations.release(P1, dice.choice(made).reservation.id)
            await world.sleep(dice.uniform(1, 90))
        stored = await world.db.read(counters.loads)
        await world.db.write(counters.recount)
        assert await world.db.read(counters.loads) == stored
        assert sum(load.live for load in stored.values()) == len(await world.live())

    in_world(story)


@databases.sqlite_only  # PostgreSQL chooses by what the tables hold
@pytest.mark.parametrize(("states", "by_index"), [(LIVE_SQL, True), ("('starting', 'active')", False)])
def test_only_all_live_leases_together_are_found_by_their_index(states: str, by_index: bool):
    where = f"WHERE provider = 'p' AND account = 'a' AND state IN {states}"
    query = f"EXPLAIN QUERY PLAN SELECT id FROM leases {where}"  # noqa: S608

    async def story(world: World) -> None:
        plan = await world.db.read(lambda tx: [row["detail"] for row in tx.fetch(query)])
        assert any("leases_live" in step for step in plan) is by_index

    in_world(story)


def test_locked_keys_are_exactly_those_of_leases_in_locking_states():
    async def story(world: World) -> None:
        made = [await world.reserve(2) for _ in range(4)]
        await world.sleep(60)
        await world.engine.reservations.release(P1, made[0].reservation.id)
        held = await world.db.read(leases.locked_keys)
        rows = [lease for lease in await world.leases() if lease.state in LOCKS_KEYS]
        assert held == {(lease.provider, key) for lease in rows for key in lease.offered.conflict_keys}

    in_world(story)


def test_an_illegal_event_raises_and_changes_nothing():
    async def story(world: World) -> None:
        lease = (await world.reserve(1)).leases[0]

        def absurd(tx: Tx) -> None:
            leases.advance(tx, leases.get(tx, lease.id), Absent(tx.now(), "NEVER_CREATED"))

        with pytest.raises(IllegalTransition):
            await world.db.write(absurd)
        assert await world.db.read(lambda tx: leases.get(tx, lease.id)) == lease

    in_world(story)


def test_a_lease_that_changed_since_it_was_read_is_not_overwritten():
    async def story(world: World) -> None:
        lease = (await world.reserve(1)).leases[0]
        await world.db.write(lambda tx: leases.advance(tx, lease, Release("DESTROYED", tx.now())))
        with pytest.raises(Conflict):
            await world.db.write(lambda tx: leases.advance(tx, lease, Ready(tx.now(), "running")))
        assert (await world.db.read(lambda tx: leases.get(tx, lease.id))).state is LeaseState.RELEASING

    in_world(story)


def test_every_change_of_state_has_one_event_in_order():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(120)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        rows = await world.db.read(lambda tx: [dict(r) for r in tx.fetch("SELECT * FROM events ORDER BY seq")])
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        for lease in await world.leases():
            first, *told = [row["event"] for row in rows if row["lease_id"] == lease.id]
            assert first == "requested"
            state = LeaseState.REQUESTED
            for event in told:
                state = after(state, LeaseEvent(event))
            assert state is lease.state

    in_world(story)


@pytest.mark.seeds(1, 6)
def test_after_any_faults_the_database_agrees_with_the_market(seed: int):
    """Random calls under random faults. Once the faults stop, every machine is in the database or gone."""

    async def story(world: World) -> None:
        dice = random.Random(seed)
        running: list[asyncio.Future[Any]] = []
        for number in range(25):
            _arm_something(world, dice)
            request_id = f"r{number}" if dice.random() < 0.5 else ""
            call = world.reserve(dice.choice((1, 1, 2, 4)), seconds=dice.choice((5, 30, 120)), request_id=request_id)
            running.append(asyncio.ensure_future(call))
            await world.sleep(dice.uniform(0, 60))
            if dice.random() < 0.2:
                dice.choice(running).cancel()
            if dice.random() < 0.1:
                await world.restart()
        world.control("DELETE", "faults")
        results = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(r, Refusal | asyncio.CancelledError) or r.reservation for r in results), results
        await world.sleep(900)
        await world.books_agree()
        assert world.calls("create") >= world.created()
        assert [lease for lease in await world.live() if lease.state is LeaseState.UNKNOWN] == []
        labels = [i["label"] for i in world.market["instances"]]
        assert len(labels) == len(set(labels)), "one attempt was created twice"

    in_world(story, seed=seed, accounts=2, machines=120)


def _arm_something(world: World, dice: random.Random) -> None:
    call, faults = dice.choice(
        [
            ("create", ["reset_before", "reset_after", "status_500_before", "status_500_after", "malformed_json"]),
            ("create", ["offer_gone", "rate_limited", "never_ready", "price_moved", "wrong_gpu", "dies_after_ready"]),
            ("create", ["late_effect", "hang_after", "hang_before", "truncated", "refused_200"]),
            ("list", ["status_500_before", "empty_list", "missing_page", "malformed_json", "rate_limited"]),
            ("get", ["status_500_before", "reset_before", "html_502"]),
            ("destroy", ["destroy_ignored", "status_500_before", "status_500_after", "reset_after", "rate_limited"]),
        ]
    )
    world.arm(call, dice.choice(faults), times=dice.randint(1, 3), seconds=dice.choice((5, 20, 60)))


def test_a_replacement_gets_the_end_of_a_reservation_that_was_extended_in_the_meantime():
    async def story(world: World) -> None:
        world.delay = lambda: 0.5
        await world.restart()
        await world.sleep(30)
        world.arm("create", "offer_gone")
        end = world.books_clock.now() + timedelta(hours=2)
        call = asyncio.ensure_future(world.reserve(2, request_id="a", lease=600))
        while not any(lease.state is LeaseState.FAILED for lease in await world.leases()):
            await world.sleep(0.1)
        await world.sleep(0.2)
        await world.engine.reservations.extend(Caller(project="p1"), (await world.leases())[0].reservation_id, end)
        made = await call
        assert len(made.kept) == 2
        assert [lease.expires_at for lease in made.kept] == [end, end]

    in_world(story)
