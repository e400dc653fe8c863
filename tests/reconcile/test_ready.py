"""A machine is ready when it answers a probe. It is released as not ready only after unanswered probes."""

from datetime import timedelta

from gpuproxy.model.leases import LeaseState
from tests.world import World, in_world


def test_a_machine_that_got_ready_while_the_provider_was_silent_is_kept():
    async def story(world: World) -> None:
        world.arm("list", "status_500_before", times=0)
        made = await world.reserve(1, request_id="a", ready_timeout=timedelta(seconds=120))
        await world.sleep(600)
        world.control("DELETE", "faults")
        await world.sleep(60)
        assert [lease.state for lease in (await world.view(made.reservation.id)).leases] == [LeaseState.ACTIVE]
        await world.books_agree()

    in_world(story)


def test_a_machine_that_runs_and_never_answers_is_released():
    async def story(world: World) -> None:
        made = await world.reserve(1, ready_timeout=timedelta(seconds=120))
        await world.sleep(10)
        assert world.sandbox.port_table.open == {}
        world.sandbox.port_table.set_open = lambda *_, **__: None
        await world.sleep(90)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.sleep(90)
        lease = (await world.view(made.reservation.id)).leases[0]
        assert (lease.state, lease.reason) == (LeaseState.RELEASED, "NOT_READY")
        await world.books_agree()

    in_world(story)


def test_a_slow_listing_is_judged_by_when_it_began():
    async def story(world: World) -> None:
        made = await world.reserve(1, request_id="a", ready_timeout=timedelta(seconds=30))
        await world.sleep(18)
        world.arm("list", "slow_trickle", seconds=0.006)
        await world.sleep(60)
        assert [lease.state for lease in (await world.view(made.reservation.id)).leases] == [LeaseState.ACTIVE]
        await world.books_agree()

    in_world(story, boot_time=(25.0, 25.0))
