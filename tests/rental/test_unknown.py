"""Lost answers: nothing is rented twice, nothing is lost, and a missing answer proves nothing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, OfferGone
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reservations import ReservationState, outcome_word
from gpuproxy.outcomes import record
from gpuproxy.ports import HttpRequest, HttpResponse
from tests.reconcile.test_absence import rent_by_hand
from tests.world import World, in_world


@pytest.mark.parametrize(
    "fault", ["reset_after", "status_500_after", "malformed_json", "html_502", "empty_body", "truncated"]
)
def test_a_lost_create_reply_never_rents_twice(fault: str):
    async def story(world: World) -> None:
        world.arm("create", fault)
        await world.reserve(1, request_id="a")
        await world.sleep(60)
        made = await world.reserve(1, request_id="a")
        assert world.calls("create") == 1
        assert world.created() == len(made.kept)
        await world.books_agree()

    in_world(story)


def test_a_lost_reply_is_found_by_the_listing_before_the_answer():
    async def story(world: World) -> None:
        world.arm("create", "reset_after")
        made = await world.reserve(2)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 2
        assert world.calls("create") == 2
        await world.books_agree()

    in_world(story)


def test_an_unknown_outcome_is_shown_and_not_counted_as_reserved():
    async def story(world: World) -> None:
        world.arm("create", "reset_after")
        world.arm("list", "status_500_before", times=2)
        made = await world.reserve(1, request_id="a")
        assert made.kept == ()
        assert [outcome_word(lease) for lease in made.leases] == ["unknown"]
        assert made.reservation.state is ReservationState.PENDING
        await world.sleep(30)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)


def test_without_a_request_id_a_machine_found_after_the_answer_is_released():
    async def story(world: World) -> None:
        world.arm("create", "reset_after")
        world.arm("list", "status_500_before", times=2)
        made = await world.reserve(1)
        assert [outcome_word(lease) for lease in made.leases] == ["unknown"]
        await world.sleep(180)
        over = await world.view(made.reservation.id)
        assert over.leases[0].state is LeaseState.RELEASED
        assert world.created() == 1
        assert world.alive() == {}

    in_world(story)


def test_a_create_that_is_executed_late_is_adopted():
    async def story(world: World) -> None:
        world.arm("create", "late_effect", seconds=40)
        made = await world.reserve(1, request_id="a")
        assert made.kept == ()
        await world.sleep(120)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)


def test_all_or_nothing_releases_machines_found_after_the_answer():
    async def story(world: World) -> None:
        world.arm("create", "late_effect", seconds=40)
        with pytest.raises(FailedPrecondition):
            await world.reserve(2, all_or_nothing=True, request_id="a")
        await world.sleep(240)
        assert world.created() == 2
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_provider_that_does_not_answer_proves_no_absence():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(120)
        world.arm("list", "status_500_before", times=0)
        world.arm("get", "status_500_before", times=0)
        await world.sleep(1800)
        assert [lease.state for lease in (await world.view(made.reservation.id)).leases] == [LeaseState.ACTIVE] * 2

    in_world(story)


def test_an_empty_listing_is_not_believed_without_a_confirmation():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(120)
        world.arm("list", "empty_list", times=0)
        await world.sleep(600)
        assert [lease.state for lease in (await world.view(made.reservation.id)).leases] == [LeaseState.ACTIVE] * 2
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        world.arm("destroy", "destroy_ignored", times=2)
        await world.sleep(10)
        assert len(world.alive()) == 2
        assert {lease.state for lease in await world.leases()} == {LeaseState.RELEASING}
        await world.sleep(300)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_an_instance_that_the_provider_removed_is_lost():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(120)
        contract = str(made.leases[0].instance_id)
        world.sandbox.market.destroy(world.sandbox.market.instances[int(contract)])
        await world.sleep(180)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.LOST
        await world.books_agree()

    in_world(story)


def test_a_machine_above_the_price_ceiling_is_released_and_replaced():
    async def story(world: World) -> None:
        world.arm("create", "price_moved", factor=50)
        made = await world.reserve(1, max_price=0.5)
        moved = [lease for lease in made.leases if lease.reason == "PRICE_MOVED"]
        assert [lease.observed.price <= lease.creation.ceiling for lease in made.kept] == [True]
        assert len(moved) == 1
        await world.sleep(120)
        await world.books_agree()
        assert [i["price_per_hour"] <= 0.5 for i in world.alive().values()] == [True]

    in_world(story)


def test_a_machine_with_another_gpu_than_rented_is_released():
    async def story(world: World) -> None:
        world.arm("create", "wrong_gpu", gpu_name="GTX 1050", gpu_ram=4096)
        made = await world.reserve(1, request_id="a")
        assert made.leases[0].reason == ""  # a name may change with the next row
        await world.sleep(200)
        assert (await world.view(made.reservation.id)).leases[0].reason == "WRONG_GPU"
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_an_ignored_destroy_is_repeated_until_the_machine_is_proven_gone():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(60)
        world.arm("destroy", "destroy_ignored", times=3)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(20)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.RELEASING
        await world.sleep(300)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_caller_that_leaves_without_a_request_id_leaves_nothing_behind():
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(16))
        await world.sleep(20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        sent = world.calls("create")
        await world.sleep(300)
        assert world.calls("create") <= sent + 1
        assert world.created() >= 4
        assert world.alive() == {}
        await world.books_agree()

    in_world(story, paced=True)


@pytest.mark.parametrize("found_by", [{"request_id": "a"}, {"keep_late": True}, {}])
def test_a_caller_that_leaves_before_it_gets_the_reservation_id_keeps_only_what_it_can_find(found_by: Any):
    async def story(world: World) -> None:
        world.delay = lambda: 1.0
        await world.restart()
        await world.sleep(30)
        call = asyncio.ensure_future(world.reserve(1, wait=False, **found_by))
        await world.sleep(1.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await world.sleep(300)
        assert len(world.alive()) == (1 if found_by else 0)
        await world.books_agree()

    in_world(story)


def test_a_pending_reservation_whose_id_was_returned_is_kept():
    async def story(world: World) -> None:
        told = await world.reserve(1, wait=False)
        await world.sleep(300)
        assert len((await world.view(told.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)


def test_a_caller_that_leaves_with_a_request_id_finds_everything_that_was_kept():
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(16, request_id="a"))
        await world.sleep(20)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await world.sleep(120)
        found = await world.reserve(16, request_id="a")
        assert len(found.kept) == len(world.alive()) == world.calls("create")
        assert 4 <= len(found.kept) <= 6
        await world.books_agree()

    in_world(story, paced=True)


def test_one_of_two_joined_callers_may_leave():
    async def story(world: World) -> None:
        first = asyncio.ensure_future(world.reserve(6, request_id="a"))
        second = asyncio.ensure_future(world.reserve(6, request_id="a"))
        await world.sleep(5)
        first.cancel()
        assert len((await second).kept) == 6

    in_world(story, paced=True)


@pytest.mark.parametrize("request_id", ["", "a"])
def test_a_crash_during_a_call_is_recovered_by_the_next_start(request_id: str):
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(12, request_id=request_id))
        await world.sleep(23)
        await world.restart()
        assert call.cancelled()
        await world.sleep(300)
        await world.books_agree()
        assert len(world.alive()) == (world.created() if request_id else 0)
        assert world.created() >= 4

    in_world(story, paced=True)


def test_a_crash_during_a_create_makes_it_unknown_and_the_first_pass_finds_it():
    async def story(world: World) -> None:
        world.arm("create", "hang_after", seconds=25)
        call = asyncio.ensure_future(world.reserve(1, request_id="a"))
        await world.sleep(5)
        assert world.created() == 1
        await world.restart()
        for watch in world.engine.watches:
            await watch.step()
            await watch.step()
        await world.books_agree()
        assert call.cancelled()
        found = await world.reserve(1, request_id="a")
        assert len(found.kept) == 1
        assert world.calls("create") == 1

    in_world(story)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("tick", range(30))
def test_a_caller_that_leaves_just_as_it_is_answered_leaves_nothing_behind(tick: int):
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(1))
        while not (rows := await world.leases()) or rows[0].instance_id is None:  # noqa: ASYNC110 - tick by tick
            await asyncio.sleep(0)
        for _ in range(tick):
            await asyncio.sleep(0)
        heard = call.done()
        call.cancel()
        await asyncio.wait([call])
        await world.sleep(120)
        assert len(world.alive()) == (1 if heard else 0)
        await world.books_agree()

    in_world(story)


def test_a_refusal_read_after_its_create_counted_as_unknown_is_believed():
    """The process was suspended, so the reconciler recorded the create as unknown before its answer was read."""

    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        lease = made.leases[0]
        assert lease.state is LeaseState.UNKNOWN
        said = await world.db.write(lambda tx: record.refused(tx, lease.id, OfferGone("somebody was faster")))
        assert (said.state, said.reason) == (LeaseState.FAILED, "OFFER_GONE")
        again = await world.db.write(lambda tx: record.refused(tx, lease.id, OfferGone("somebody was faster")))
        assert again == said
        await world.books_agree()

    in_world(story)


def test_an_impossible_listed_price_does_not_delay_the_end_of_any_lease():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a", lease=600)
        _say_of_all(world, lambda: {"dph_total": "NaN"})
        await world.sleep(700)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize("late", [{"dph_total": 50.0}, {"gpu_name": "GTX 1060"}])
def test_a_fact_missing_in_the_first_listing_is_checked_in_a_later_one(late: dict[str, object]):
    async def story(world: World) -> None:
        rows: list[dict[str, object]] = [dict.fromkeys(late), late]
        _say_of_all(world, lambda: rows.pop(0) if len(rows) > 1 else rows[0])
        made = await world.reserve(1, request_id="a", max_price=2.0, gpu_model="RTX 3060")
        await world.sleep(200)
        assert world.alive() == {}
        assert (await world.view(made.reservation.id)).leases[0].reason in ("PRICE_MOVED", "WRONG_GPU")

    in_world(story)


def test_a_foreign_label_equal_to_our_instance_id_does_not_keep_it_billed():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a")
        await world.sleep(60)
        stranger = rent_by_hand(world, made.kept[0].instance_id)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert (await world.view(made.reservation.id)).reservation.state is ReservationState.RELEASED
        assert set(world.alive()) == {stranger}

    in_world(story)


def _say_of_all(world: World, facts: Callable[[], dict[str, object]]) -> None:
    """Make every listing from now on show these values for every machine."""
    send = world.http.send

    async def saying(request: HttpRequest) -> HttpResponse:
        response = await send(request)
        if not request.url.startswith("http://sandbox/api/v1/instances/"):
            return response
        said = json.loads(response.body)
        if said["instances"]:
            here = facts()
            said["instances"] = [row | here for row in said["instances"]]
        return HttpResponse(status=200, headers=response.headers, body=json.dumps(said).encode())

    world.http.send = saying  # type: ignore[method-assign]


def test_a_lease_ends_on_time_while_listings_are_rate_limited_for_two_minutes():
    async def story(world: World) -> None:
        await world.reserve(1, request_id="a", lease=600)
        await world.sleep(500)
        world.arm("list", "rate_limited", times=0, retry_after=115)
        await world.sleep(160)
        assert world.alive() == {}

    in_world(story, paced=True)
