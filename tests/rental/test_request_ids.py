"""One request_id of a project is one reservation: repeats find it or join its running call."""

import asyncio

import pytest

from gpuproxy.model.errors import AlreadyExists
from tests.world import World, in_world


def test_the_same_request_id_is_the_same_reservation():
    async def story(world: World) -> None:
        first = await world.reserve(2, request_id="a")
        again = await world.reserve(2, request_id="a")
        assert again.reservation.id == first.reservation.id
        assert world.created() == 2

    in_world(story)


def test_concurrent_duplicates_join_the_running_call():
    async def story(world: World) -> None:
        calls = [world.reserve(2, request_id="a") for _ in range(50)]
        made = await asyncio.gather(*calls)
        assert len({view.reservation.id for view in made}) == 1
        assert world.created() == 2

    in_world(story)


def test_another_demand_under_a_used_request_id_is_refused():
    async def story(world: World) -> None:
        made = await world.reserve(2, request_id="a")
        with pytest.raises(AlreadyExists, match=f"belongs to reservation {made.reservation.id}, ") as caught:
            await world.reserve(3, request_id="a")
        assert caught.value.metadata == {"request_id": "a", "reservation_id": made.reservation.id}
        assert "nothing was rented" not in caught.value.message
        running = asyncio.ensure_future(world.reserve(1, request_id="b"))
        await asyncio.sleep(0)
        with pytest.raises(AlreadyExists):
            await world.reserve(2, request_id="b")
        await running
        assert world.created() == 3

    in_world(story)


def test_a_repeat_of_a_call_from_before_fingerprints_were_keyed_finds_its_machines():
    async def story(world: World) -> None:
        made = await world.reserve(2, request_id="a")
        old = ("UPDATE reservations SET fingerprint = ?", ["0123"])
        await world.db.write(lambda tx: tx.execute(*old))
        again = await world.reserve(2, request_id="a", old_fingerprint="0123")
        assert again.reservation.id == made.reservation.id
        with pytest.raises(AlreadyExists):
            await world.reserve(3, request_id="a", old_fingerprint="4567")
        assert world.created() == 2

    in_world(story)


def test_request_ids_of_two_projects_are_two_reservations():
    async def story(world: World) -> None:
        one = await world.reserve(1, request_id="a", project="p1")
        two = await world.reserve(1, request_id="a", project="p2")
        assert one.reservation.id != two.reservation.id

    in_world(story)
