"""How long a call waits for listings: no longer than the marketplace's interval, and none for what is known already."""

from gpuproxy.model.demands import Caller
from tests.world import World, in_world

CALLER = Caller(project="p1")
LIST_INTERVAL = 1.02
"""vast.ai's interval of 1 s, with the margin."""
CREATE = 0.5
POLL = 2.0


async def seconds_of(world: World, **wanted: object) -> float:
    began = world.clock.monotonic()
    view = await world.reserve(1, **wanted)  # type: ignore[arg-type]
    assert len(view.leases) == 1
    return world.clock.monotonic() - began


async def destroy_all(world: World) -> None:
    for lease in await world.live():
        await world.engine.instances.destroy(CALLER, lease.provider, str(lease.instance_id))


def test_a_call_right_after_a_destroy_waits_for_one_listing_and_not_for_two() -> None:
    async def story(world: World) -> None:
        for _ in range(4):
            await world.sleep(20)  # the next create and the next listing are due
            assert await seconds_of(world) <= CREATE + 0.01
            await world.sleep(20)
            await destroy_all(world)
            assert await seconds_of(world) <= LIST_INTERVAL + 0.1
            await destroy_all(world)

    in_world(story, paced=True, create_latency=CREATE)


def test_its_price_is_checked_by_a_listing_that_was_sent_after_the_create() -> None:
    async def story(world: World) -> None:
        await world.sleep(20)
        await seconds_of(world)
        await world.sleep(20)
        await destroy_all(world)
        sent: list[str] = []
        world.overhear.append(lambda request: sent.append(f"{request.method} {request.url.partition('?')[0]}"))
        await seconds_of(world)
        (create,) = [at for at, request in enumerate(sent) if request.startswith("PUT") and "/asks/" in request]
        assert any(request.startswith("GET") and request.endswith("/instances/") for request in sent[create:])

    in_world(story, paced=True, create_latency=CREATE)


def test_a_machine_that_starts_quickly_is_seen_at_the_next_poll_also_if_nothing_had_changed_for_long() -> None:
    async def story(world: World) -> None:
        await world.sleep(10)  # the account is idle: its next pass would begin in twenty seconds
        assert await seconds_of(world, wait_for="ready", seconds=900) <= POLL + 0.1

    in_world(story, boot_time=(0.3, 0.3))
