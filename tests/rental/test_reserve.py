"""Renting and releasing, from the view of one call."""

from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import CreationFailed, FailedPrecondition, NotFound
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.offers import Offer
from gpuproxy.model.reservations import ReservationState, outcome_word
from gpuproxy.providers.vast import wire
from tests.world import World, demand, in_world


@pytest.mark.long
def test_four_gpus_are_rented_billed_and_released():
    async def story(world: World) -> None:
        made = await world.reserve(4, min_vram=16, max_price=2.0)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 4
        assert made.reservation.message.startswith("Reserved 4 of 4 GPUs")
        await world.books_agree()
        await world.sleep(3600)
        later = await world.view(made.reservation.id)
        assert later.reservation.state is ReservationState.ACTIVE
        assert all(cost > 0 for cost in later.costs)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        over = await world.view(made.reservation.id)
        assert over.reservation.state is ReservationState.RELEASED
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


@pytest.mark.long
def test_the_metered_cost_is_what_the_market_bills():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        await world.sleep(4 * 3600)
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        ours = sum((await world.view(made.reservation.id)).costs)
        billed = world.market["bill_micro_usd"]
        assert billed > 0
        assert abs(ours - billed) <= billed * 0.01

    in_world(story)


def test_a_reservation_prefers_single_gpu_instances():
    async def story(world: World) -> None:
        made = await world.reserve(6)
        assert [lease.offered.num_gpus for lease in made.leases] == [1] * 6

    in_world(story)


def test_the_deadline_cuts_off_paced_creates_as_not_attempted():
    async def story(world: World) -> None:
        made = await world.reserve(16, seconds=30, keep_late=True)
        kept = sum(lease.offered.num_gpus for lease in made.kept)
        cut = [lease for lease in made.leases if outcome_word(lease) == "not_attempted"]
        assert 4 <= kept <= 7
        assert kept + sum(lease.offered.num_gpus for lease in cut) == 16
        assert made.reservation.state is ReservationState.PARTIAL
        assert world.calls("create") == len(made.kept)
        await world.books_agree()

    in_world(story, paced=True)


def test_two_accounts_share_the_creates():
    async def story(world: World) -> None:
        began = world.clock.monotonic()
        made = await world.reserve(8)
        assert {lease.account for lease in made.leases} == {"vast-1", "vast-2"}
        assert world.clock.monotonic() - began < 5 * 4.5

    in_world(story, paced=True, accounts=2)


def test_creates_keep_the_accounts_pace_exactly():
    async def story(world: World) -> None:
        began = world.clock.monotonic()
        made = await world.reserve(8)
        assert len(made.kept) == 8
        assert world.calls("create") == 8
        assert world.clock.monotonic() - began <= (7 * 4.5 + 1) * 1.05

    in_world(story, paced=True)


def test_asking_for_more_than_there_is_rents_nothing_and_stores_nothing():
    async def story(world: World) -> None:
        with pytest.raises(FailedPrecondition) as refused:
            await world.reserve(16, max_price=0.0001)
        assert refused.value.reason == "NOT_ENOUGH_GPUS"
        assert refused.value.metadata["requested"] == "16"
        assert "Nothing was rented." in refused.value.message
        assert world.created() == 0
        assert await world.reservations() == 0

    in_world(story)


def test_a_dry_run_picks_and_prices_without_renting():
    async def story(world: World) -> None:
        made = await world.reserve(4, dry_run=True)
        assert made.reservation.decision is not None
        assert len(made.reservation.decision.picks) == 4
        assert world.calls("create") == 0
        assert await world.reservations() == 0

    in_world(story)


def test_another_projects_reservation_does_not_exist():
    async def story(world: World) -> None:
        made = await world.reserve(1)
        stranger = Caller(project="p2")
        with pytest.raises(NotFound):
            await world.engine.reservations.by_id(stranger, made.reservation.id)
        with pytest.raises(NotFound):
            await world.engine.reservations.release(stranger, made.reservation.id)
        with pytest.raises(NotFound):
            await world.engine.instances.destroy(stranger, "vast.ai", str(made.leases[0].instance_id))
        assert len(world.alive()) == 1

    in_world(story)


def test_a_call_that_does_not_wait_answers_pending_and_continues():
    async def story(world: World) -> None:
        made = await world.reserve(6, wait=False)
        assert made.reservation.state is ReservationState.PENDING
        await world.sleep(60)
        later = await world.view(made.reservation.id)
        assert sum(lease.offered.num_gpus for lease in later.kept) == 6

    in_world(story, paced=True)


def test_releasing_a_running_call_starts_no_more_creates():
    async def story(world: World) -> None:
        made = await world.reserve(12, wait=False)
        await world.sleep(10)
        sent = world.calls("create")
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(180)
        assert world.calls("create") <= sent + 1
        assert world.alive() == {}
        await world.books_agree()

    in_world(story, paced=True)


def test_waiting_for_ready_answers_when_every_machine_answers():
    async def story(world: World) -> None:
        made = await world.reserve(3, wait_for="ready", seconds=300)
        assert made.reservation.state is ReservationState.ACTIVE
        assert all(lease.state is LeaseState.ACTIVE for lease in made.leases)

    in_world(story)


def test_a_machine_that_never_gets_ready_is_replaced_while_the_caller_waits():
    async def story(world: World) -> None:
        world.arm("create", "never_ready")
        from datetime import timedelta

        made = await world.reserve(2, wait_for="ready", seconds=900, ready_timeout=timedelta(seconds=200))
        assert len(made.kept) == 2
        assert made.reservation.state is ReservationState.ACTIVE
        assert [lease.reason for lease in made.leases if lease.reason] == ["NOT_READY"]
        await world.sleep(120)
        await world.books_agree()
        assert len(world.alive()) == 2

    in_world(story)


def test_a_lease_ends_at_its_time_and_extending_moves_the_end():
    async def story(world: World) -> None:
        short = await world.reserve(1, lease=600)
        long = await world.reserve(1, lease=600)
        until = long.reservation.expires_at
        assert until is not None
        from datetime import timedelta

        later = until + timedelta(hours=1)
        for _ in range(2):
            await world.engine.reservations.extend(Caller(project="p1"), long.reservation.id, later)
        await world.sleep(600 + 63)
        assert (await world.view(short.reservation.id)).leases[0].state in (LeaseState.RELEASING, LeaseState.RELEASED)
        assert len(world.alive()) == 1
        await world.sleep(3600)
        assert world.alive() == {}
        assert (await world.view(short.reservation.id)).leases[0].reason == "EXPIRED"

    in_world(story)


def test_destroying_twice_is_destroying_once():
    async def story(world: World) -> None:
        made = await world.reserve(2)
        target = str(made.leases[0].instance_id)
        for _ in range(3):
            await world.engine.instances.destroy(Caller(project="p1"), "vast.ai", target)
        await world.sleep(120)
        assert list(world.alive()) == [str(made.leases[1].instance_id)]
        gone = await world.engine.instances.destroy(Caller(project="p1"), "vast.ai", target)
        assert gone.state is LeaseState.RELEASED

    in_world(story)


def test_refused_offers_are_replaced_by_others():
    async def story(world: World) -> None:
        world.arm("create", "offer_gone", times=3)
        made = await world.reserve(4)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 4
        assert [lease.reason for lease in made.leases].count("OFFER_GONE") == 3
        await world.books_agree()

    in_world(story)


def test_a_rate_limited_create_is_tried_again_after_the_wait():
    async def story(world: World) -> None:
        world.arm("create", "rate_limited", times=2)
        made = await world.reserve(2)
        assert len(made.kept) == 2
        await world.books_agree()

    in_world(story)


def test_partial_success_keeps_what_there_is_and_says_why():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=0, after=2)
        made = await world.reserve(4)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 2
        assert "PROVIDER_FUNDS" in made.reservation.message
        assert made.reservation.state is ReservationState.PARTIAL
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize("wanted", [{"all_or_nothing": True}, {"min_count": 3}])
def test_too_few_gpus_are_all_released(wanted: dict[str, object]):
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=0, after=2)
        with pytest.raises(FailedPrecondition) as refused:
            await world.reserve(4, **wanted)
        assert refused.value.reason == "NOT_ALL_RESERVED"
        await world.sleep(120)
        assert world.created() == 2
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_min_count_that_is_reached_keeps_them():
    async def story(world: World) -> None:
        world.arm("create", "insufficient_credit", times=0, after=3)
        made = await world.reserve(4, min_count=3)
        assert sum(lease.offered.num_gpus for lease in made.kept) == 3

    in_world(story)


@pytest.mark.parametrize(
    ("fault", "reason", "kind"),
    [
        ("insufficient_credit", "PROVIDER_FUNDS", FailedPrecondition),
        ("auth_error", "PROVIDER_CREDENTIALS", FailedPrecondition),
        ("offer_gone", "INSTANCE_CREATION_FAILED", CreationFailed),
    ],
)
def test_when_every_create_fails_the_reason_says_why(fault: str, reason: str, kind: type[Exception]):
    async def story(world: World) -> None:
        world.arm("create", fault, times=0)
        with pytest.raises(kind) as refused:
            await world.reserve(2, request_id="a")
        assert getattr(refused.value, "reason", "") == reason
        assert world.created() == 0
        with pytest.raises(kind) as replayed:
            await world.reserve(2, request_id="a")
        assert str(replayed.value) == str(refused.value)

    in_world(story)


def test_an_unreachable_market_frees_the_request_id():
    async def story(world: World) -> None:
        world.arm("create", "refuse_connection", times=0)
        with pytest.raises(Exception, match="No marketplace could be reached"):
            await world.reserve(2, request_id="a", seconds=30)
        world.control("DELETE", "faults")
        made = await world.reserve(2, request_id="a")
        assert len(made.kept) == 2

    in_world(story)


def test_the_decision_names_the_cheapest_alternative():
    async def story(world: World) -> None:
        made = await world.reserve(3)
        decision = made.reservation.decision
        assert decision is not None
        assert decision.cheapest_alternative is not None
        assert decision.cheapest_alternative <= sum(lease.observed.price for lease in made.leases)
        assert decision.strategy == "least_connections"
        assert demand(1).least == 1

    in_world(story)


def test_nothing_is_rented_that_would_expire_before_it_is_created():
    async def story(world: World) -> None:
        made = await world.reserve(8, lease=12)
        assert world.calls("create") == 3, "at one in 4.5 s"
        assert {lease.reason for lease in made.leases if lease not in made.kept} == {"NOT_ATTEMPTED"}
        await world.sleep(120)
        assert world.calls("create") == 3
        assert world.alive() == {}

    in_world(story, paced=True)


def test_a_machine_that_expires_during_its_call_is_not_replaced():
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=0)
        with pytest.raises(CreationFailed):
            await world.reserve(2, lease=60, wait_for="ready", seconds=900)
        assert world.calls("create") == 2
        await world.sleep(60)
        assert world.alive() == {}

    in_world(story)


def test_an_offer_that_can_never_be_taken_is_left_out_and_the_next_one_is_rented(monkeypatch: pytest.MonkeyPatch):
    """Two exclusive keys of one offer that are the same can't both be stored, although nobody else has them."""

    async def story(world: World) -> None:
        decision = (await world.reserve(1, dry_run=True)).reservation.decision
        assert decision is not None
        first, make = decision.picks[0].offer_id, wire._new_offer

        def odd(**facts: Any) -> Offer:
            offer = make(**facts)
            return replace(offer, conflict_keys=offer.conflict_keys * 2) if offer.id == first else offer

        monkeypatch.setattr(wire, "_new_offer", odd)
        await world.restart()
        made = await world.reserve(1)
        assert [lease.state for lease in made.leases] == [LeaseState.STARTING]
        assert made.leases[0].offered.offer_id != first
        await world.books_agree()

    in_world(story)
