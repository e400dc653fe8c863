"""One request_id of a project is one reservation: repeats find it or join its running call."""

import asyncio
from typing import Any

import pytest

from gpuproxy.loadbalancer import choice
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import AlreadyExists
from gpuproxy.model.reservations import ReservationState
from gpuproxy.ports import Tx
from tests.world import VAST, World, in_world


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


@pytest.mark.parametrize("running", [True, False])
def test_the_refusal_names_the_fields_that_differ_also_after_a_restart(running: bool):
    async def story(world: World) -> None:
        first = {"request_id": "a", "field_marks": (("call", "1"), ("count", "2"), ("env", "3"))}
        call = asyncio.ensure_future(world.reserve(2, **first))
        await asyncio.sleep(0)
        if not running:
            await call
            await world.restart()
        other = {"request_id": "a", "field_marks": (("call", "1"), ("count", "9"), ("image", "4"))}
        with pytest.raises(AlreadyExists, match=r"something else \(different: count, image, env\)\.") as caught:
            await world.reserve(3, **other)
        assert caught.value.metadata["different"] == "count,image,env"
        await call
        again = await world.reserve(2, **first)
        assert again.reservation.request_id == "a"
        assert world.created() == 2

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


@pytest.mark.parametrize("how", ["released", "expired"])
def test_a_repeat_after_the_end_says_that_it_has_ended_when_and_why_and_rents_nothing(how: str):
    async def story(world: World) -> None:
        lease = {"lease": 600} if how == "expired" else {}
        made = await world.reserve(2, request_id="a", **lease)
        await world.sleep(60)
        if how == "released":
            await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
            at_once = (await world.reserve(2, request_id="a")).reservation
            assert at_once.state is ReservationState.RELEASING
            assert "request_id is being released" in at_once.message
        await world.sleep(1200)
        again = await world.reserve(2, request_id="a", **lease)
        assert (again.reservation.id, again.kept) == (made.reservation.id, ())
        assert again.reservation.state is ReservationState.RELEASED
        ended = max(lease.ended_at for lease in again.leases if lease.ended_at)
        text = again.reservation.message
        assert f"ended at {ended:%Y-%m-%d %H:%M:%S} UTC, and no machine is rented for it now." in text
        assert f"({'EXPIRED' if how == 'expired' else 'RELEASED'} 2); nothing is billed any more." in text
        assert text.endswith("To rent again, use another request_id.")
        assert world.created() == 2
        seen = await world.engine.reservations.by_id(Caller(project="p1"), made.reservation.id)
        assert "another request_id" not in seen.reservation.message
        other = await world.reserve(2, request_id="b")
        assert len(other.kept) == 2

    in_world(story)


def test_a_repeat_whose_only_create_never_happened_says_that_it_has_failed():
    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a", seconds=60)
        assert made.reservation.state is ReservationState.PENDING
        assert "another request_id" not in made.reservation.message
        await world.sleep(7200)
        again = (await world.reserve(1, request_id="a")).reservation
        assert again.state is ReservationState.FAILED
        assert "request_id has failed, and no machine is rented for it now." in again.message

    in_world(story)


def test_a_repeat_while_a_machine_is_left_does_not_speak_of_an_end():
    async def story(world: World) -> None:
        made = await world.reserve(2, request_id="a")
        contract = made.leases[0].instance_id
        assert contract is not None
        await world.engine.instances.destroy(Caller(project="p1"), VAST, contract)
        await world.sleep(600)
        again = await world.reserve(2, request_id="a")
        assert (again.reservation.state, len(again.kept)) == (ReservationState.PARTIAL, 1)
        assert "another request_id" not in again.reservation.message

    in_world(story)


def test_a_request_id_that_another_process_stores_meanwhile_is_joined_and_rents_nothing(monkeypatch):
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        overlooked(world, monkeypatch)
        again = await world.reserve(1, request_id="a")
        assert again.reservation.id == made.reservation.id
        overlooked(world, monkeypatch)
        with pytest.raises(AlreadyExists):
            await world.reserve(2, request_id="a")
        assert world.created() == 1
        await world.books_agree()

    in_world(story)


def test_gpus_that_another_process_takes_meanwhile_are_not_rented_twice(monkeypatch):
    """The choice is made on what was stored before the other process took them; then it is made again."""

    async def story(world: World) -> None:
        read, seen = choice._known, []

        def stale(tx: Tx, *args: Any) -> Any:
            seen.append(read(tx, *args))
            return seen[0] if len(seen) == 2 else seen[-1]

        monkeypatch.setattr(choice, "_known", stale)
        monkeypatch.setattr(world.engine.catalog, "taken", lambda offer: None)
        await world.reserve(1)
        await world.reserve(1)
        assert len(seen) == 3
        held = [lease.offered.conflict_keys for lease in await world.live()]
        assert len(held) == len(set(held)) == 2
        await world.books_agree()

    in_world(story)


def overlooked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next look for the reservation of a request_id finds none, as if it were stored right after it."""
    stored = world.engine.reserver._stored

    async def once(*args: Any) -> None:
        monkeypatch.setattr(world.engine.reserver, "_stored", stored)

    monkeypatch.setattr(world.engine.reserver, "_stored", once)
