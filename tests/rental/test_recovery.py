"""A start recovers every call of the process before it, whether or not the call had been answered."""

from tests.world import World, in_world


def test_a_create_still_running_when_the_server_died_is_found_by_the_first_passes():
    async def story(world: World) -> None:
        world.arm("create", "hang_after", seconds=25)
        made = await world.reserve(1, request_id="a", seconds=10)
        assert made.kept == ()
        assert world.created() == 1
        await world.restart()
        await _two_passes(world)
        await world.books_agree()
        assert len((await world.view(made.reservation.id)).kept) == 1

    in_world(story)


def test_the_same_without_a_request_id_is_released():
    async def story(world: World) -> None:
        world.arm("create", "hang_after", seconds=25)
        await world.reserve(1, seconds=10)
        await world.restart()
        await _two_passes(world)
        await world.sleep(60)
        assert world.created() == 1
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)


def test_a_start_does_not_restart_the_call_deadline_of_an_unknown_outcome():
    async def story(world: World) -> None:
        world.arm("create", "reset_before")
        made = await world.reserve(1, request_id="a")
        [before] = await world.live()
        await world.sleep(100)
        await world.restart()
        [after] = await world.live()
        assert after.reservation_id == made.reservation.id
        assert after.creation.call_deadline == before.creation.call_deadline

    in_world(story)


async def _two_passes(world: World) -> None:
    for watch in world.engine.watches:
        await watch.step()
        await watch.step()
