"""WatchReservation below the edge: every change once and in order, with no gap over a restart."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound
from gpuproxy.model.reservations import ReservationState, ReservationView
from tests.world import World, in_world

P1 = Caller(project="p1")
Seen = list[tuple[str, ReservationView]]


async def follow(world: World, reservation_id: str, seen: Seen, token: str = "") -> None:
    async with aclosing(world.engine.reservations.watch(P1, reservation_id, token)) as changes:
        async for change in changes:
            seen.append(change)


def told(seen: Seen) -> list[tuple[str, ...]]:
    """For each change, the state of the reservation and the states of its leases."""
    return [(view.reservation.state, *(lease.state for lease in view.leases)) for _, view in seen]


async def begun(world: World) -> str:
    made = await world.reserve(2, request_id="a", wait=False)
    return str(made.reservation.id)


def test_a_watch_begins_with_a_snapshot_and_ends_when_the_reservation_is_over() -> None:
    async def story(world: World) -> None:
        reservation_id, seen = await begun(world), []
        watching = asyncio.ensure_future(follow(world, reservation_id, seen))
        await world.sleep(200)
        await world.engine.reservations.release(P1, reservation_id)
        await world.sleep(200)
        await watching
        states = [view.reservation.state for _, view in seen]
        assert list(dict.fromkeys(states)) == ["pending", "starting", "active", "releasing", "released"]
        assert told(seen)[-1] == ("released", "released", "released")

    in_world(story)


def test_changes_come_in_order_and_one_at_a_time() -> None:
    async def story(world: World) -> None:
        reservation_id, seen = await begun(world), []
        watching = asyncio.ensure_future(follow(world, reservation_id, seen))
        await world.sleep(200)
        await world.engine.reservations.release(P1, reservation_id)
        await watching
        tokens = [int(token) for token, _ in seen]
        assert tokens == sorted(set(tokens))
        for before, after in pairwise(told(seen)):
            changed = sum(was != now for was, now in zip(before[1:], after[1:], strict=False))
            assert changed <= 1

    in_world(story)


def test_a_watch_resumed_anywhere_returns_the_remaining_changes_once_each() -> None:
    async def story(world: World) -> None:
        reservation_id, live = await begun(world), []
        watching = asyncio.ensure_future(follow(world, reservation_id, live))
        await world.sleep(200)
        await world.engine.reservations.release(P1, reservation_id)
        await watching
        for at in range(len(live)):
            rest: Seen = []
            await follow(world, reservation_id, rest, live[at][0])
            assert [token for token, _ in rest] == [token for token, _ in live[at + 1 :]]
            assert told(rest) == told(live[at + 1 :])

    in_world(story)


def test_nothing_is_missed_while_the_server_was_down() -> None:
    async def story(world: World) -> None:
        reservation_id, before = await begun(world), []
        watching = asyncio.ensure_future(follow(world, reservation_id, before))
        await world.sleep(8)
        await world.restart()
        with pytest.raises(asyncio.CancelledError):
            await watching
        await world.sleep(200)
        await world.restart()
        after: Seen = []
        again = asyncio.ensure_future(follow(world, reservation_id, after, before[-1][0]))
        await world.sleep(10)
        await world.engine.reservations.release(P1, reservation_id)
        await world.sleep(100)
        await again
        whole: Seen = []
        await follow(world, reservation_id, whole, before[0][0])
        assert [token for token, _ in (*before[1:], *after)] == [token for token, _ in whole]
        assert ReservationState.ACTIVE in {view.reservation.state for _, view in after}

    in_world(story)


def test_a_token_that_is_newer_than_the_database_gives_a_snapshot_and_then_every_change() -> None:
    async def story(world: World) -> None:
        reservation_id, whole, restored = await begun(world), [], []
        await world.sleep(200)
        watching = [
            asyncio.ensure_future(follow(world, reservation_id, seen, token))
            for seen, token in ((whole, ""), (restored, "9" * 18))
        ]
        await world.sleep(10)
        assert len(restored) == 1
        await world.engine.reservations.release(P1, reservation_id)
        await asyncio.gather(*watching)
        assert restored == whole
        over: Seen = []
        await follow(world, reservation_id, over, "9" * 18)
        assert [view.reservation.state for _, view in over] == [ReservationState.RELEASED]
        await follow(world, reservation_id, over, over[0][0])
        assert len(over) == 1

    in_world(story)


def test_a_moved_end_and_a_new_address_are_changes_too() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=3600)
        seen: Seen = []
        watching = asyncio.ensure_future(follow(world, made.reservation.id, seen))
        await world.sleep(100)
        until = world.clock.now() + timedelta(hours=5)
        await world.engine.reservations.extend(P1, made.reservation.id, until)
        await world.sleep(1)
        assert seen[-1][1].reservation.expires_at == until
        assert seen[0][1].reservation.expires_at != until
        assert seen[0][1].leases[0].observed.ssh_host == "" or len(seen) > 2
        watching.cancel()

    in_world(story)


def test_two_watchers_see_the_same() -> None:
    async def story(world: World) -> None:
        reservation_id, one, two = await begun(world), [], []
        both = [asyncio.ensure_future(follow(world, reservation_id, seen)) for seen in (one, two)]
        await world.sleep(100)
        await world.engine.reservations.release(P1, reservation_id)
        await asyncio.gather(*both)
        assert one == two

    in_world(story)


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "9" * 19, "²"])
def test_an_invalid_token_is_refused(token: str) -> None:
    async def story(world: World) -> None:
        reservation_id = await begun(world)
        with pytest.raises(InvalidArgument):
            await follow(world, reservation_id, [], token)

    in_world(story)


def test_another_projects_reservation_does_not_exist() -> None:
    async def story(world: World) -> None:
        reservation_id = await begun(world)
        with pytest.raises(NotFound):
            async for _ in world.engine.reservations.watch(Caller(project="p2"), reservation_id, ""):
                pass
        async with aclosing(
            world.engine.reservations.watch(Caller(project="p2", role="admin"), reservation_id, "")
        ) as all_of:
            assert (await anext(all_of))[1].reservation.id == reservation_id

    in_world(story)
