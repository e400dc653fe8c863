"""Nothing is rented that the marketplace would take away before its lease ends."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.edge.messages.demands import Defaults, create_demand
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.reservations import ReservationView
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.world import VAST, World, in_world

_HOUR, _DAY = 3600.0, 86_400.0


async def market_ends_in(world: World, seconds: float, but: int = 0) -> None:
    """Every offer ends after so many seconds, but those of the first `but` machines; the server has read it."""
    for machine in list(world.sandbox.market.machines.values())[but:]:
        machine.columns["end_date"] = world.clock.now().timestamp() + seconds
    await world.engine.catalog.step(VAST)


async def refused(world: World, **wanted: Any) -> FailedPrecondition:
    with pytest.raises(FailedPrecondition) as caught:
        await world.reserve(1, **wanted)
    assert caught.value.reason == "NOT_ENOUGH_GPUS"
    assert world.created() == 0
    return caught.value


async def create(world: World, offer_id: str, lease: float | None = None) -> ReservationView:
    defaults = Defaults(
        max_price=10.0,
        marketplaces={"vast": "vast.ai"},
        lease_duration=None if lease is None else timedelta(seconds=lease),
    )
    demand = create_demand(pb.CreateGPUInstanceRequest(instance_id=offer_id), defaults)
    caller = Caller(project="p1", deadline=world.clock.monotonic() + 120)
    return await world.engine.reserver.reserve(caller, demand)


def test_an_offer_that_ends_before_the_lease_is_left_out_and_counted():
    async def story(world: World) -> None:
        await market_ends_in(world, 2 * _DAY)
        told = await refused(world, lease=2 * _DAY + 60)
        left_out = int(told.metadata["rejected.ends_too_soon"])
        assert left_out > 0
        assert f"{left_out} by ends_too_soon" in str(told)
        assert "nearest_price" not in told.metadata
        assert (await world.reserve(1, lease=2 * _DAY - 60)).leases

    in_world(story)


def test_a_lease_shorter_than_the_margin_needs_no_more_than_its_own_time():
    async def story(world: World) -> None:
        await market_ends_in(world, 2 * _HOUR)
        assert (await world.reserve(1, lease=_HOUR)).leases

    in_world(story)


def test_without_an_end_an_offer_must_last_for_the_margin():
    async def story(world: World) -> None:
        await market_ends_in(world, _DAY - 60)
        assert int((await refused(world)).metadata["rejected.ends_too_soon"]) > 0
        await market_ends_in(world, _DAY + 60)
        assert (await world.reserve(1)).leases

    in_world(story)


def test_the_margin_is_a_setting_and_an_ended_offer_is_never_rented():
    async def story(world: World) -> None:
        await market_ends_in(world, 60)
        assert (await world.reserve(1)).leases
        await market_ends_in(world, -1)
        with pytest.raises(FailedPrecondition, match="by ends_too_soon"):
            await world.reserve(1)

    in_world(story, settings={"min_offer_time": 0.0})


def test_an_offer_whose_end_is_unknown_is_not_left_out():
    async def story(world: World) -> None:
        for machine in world.sandbox.market.machines.values():
            machine.columns["end_date"] = 0.0  # the adapter takes it for none
        await world.engine.catalog.step(VAST)
        view = await world.reserve(1, lease=300 * _DAY, dry_run=True)
        assert view.reservation.decision is not None
        assert view.reservation.decision.picks

    in_world(story)


def test_what_lasts_is_rented_and_the_decision_counts_the_rest():
    async def story(world: World) -> None:
        await market_ends_in(world, _HOUR, but=10)
        view = await world.reserve(1, verified_only=False)
        assert view.reservation.decision is not None
        assert dict(view.reservation.decision.rejected)["ends_too_soon"] > 0

    in_world(story)


def test_a_named_offer_that_ends_too_soon_is_refused_with_its_end():
    async def story(world: World) -> None:
        offer = (await world.reserve(1, dry_run=True)).reservation.decision.picks[0].offer_id  # type: ignore[union-attr]
        await market_ends_in(world, _HOUR)
        ends = world.clock.now() + timedelta(hours=1)
        with pytest.raises(FailedPrecondition) as caught:
            await create(world, offer)
        assert caught.value.reason == "NOT_ENOUGH_GPUS"
        assert f"Offer {offer} ends at {ends:%Y-%m-%d %H:%M}" in str(caught.value)
        assert caught.value.metadata["offer_ends_at"].startswith(f"{ends:%Y-%m-%dT%H:%M}")
        assert caught.value.metadata["rejected.ends_too_soon"] == "1"
        assert world.created() == 0
        assert (await create(world, offer, lease=1800)).leases

    in_world(story)


def test_a_replacement_needs_to_last_only_until_the_end_of_the_reservation():
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        began = world.clock.now()
        await market_ends_in(world, 2 * _HOUR + 30)
        view = await world.reserve(
            1, lease=2 * _HOUR, wait_for="ready", ready_timeout=timedelta(minutes=15), seconds=3_000
        )
        assert len(view.leases) == 2
        assert view.reservation.expires_at == view.reservation.created_at + timedelta(hours=2)
        assert view.leases[1].created_at > began + timedelta(minutes=10)

    in_world(story)
