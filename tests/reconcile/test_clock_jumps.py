"""The host's date may be wrong and be corrected. Leases, quarantines and retries depend on elapsed time only."""

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
DAY = 86_400.0


@pytest.mark.parametrize("jump", [-DAY, 0.0, DAY])
def test_a_lease_ends_when_its_time_has_passed_whatever_the_date_says(jump: float):
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=600)
        await world.sleep(60)
        world.clock.jump(jump)
        await world.sleep(500)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.sleep(120)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_an_unknown_outcome_keeps_its_quarantine_whatever_the_date_says(jump: float):
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(60)
        world.arm("create", "late_effect", seconds=250)
        made = await world.reserve(1, request_id="a")
        world.clock.jump(jump)
        await world.sleep(240)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.UNKNOWN
        await world.sleep(60)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_a_destroy_is_repeated_in_time_whatever_the_date_says(jump: float):
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(60)
        world.arm("destroy", "destroy_ignored", times=3)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(20)
        world.clock.jump(jump)
        await world.sleep(300)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_date_that_went_back_does_not_hold_up_what_is_left_to_do_after_a_restart():
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=600)
        world.arm("destroy", "destroy_ignored", times=3)
        await world.sleep(400)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(20)
        world.clock.jump(-DAY)
        await world.restart()
        await world.sleep(400)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_date_that_went_forward_before_a_restart_proves_no_absence():
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(60)
        world.arm("create", "late_effect", seconds=250)
        made = await world.reserve(1, request_id="a")
        world.clock.jump(DAY)
        await world.restart()
        await world.sleep(240)
        assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.UNKNOWN
        await world.sleep(60)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)
