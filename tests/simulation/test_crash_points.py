"""Crash right before and right after every commit and every provider call. The next start must recover everything.

The points are found by counting. Each story runs once to its end, then once for every point that it passed, with a
crash there. So the points of new code are covered automatically. By default
every fifth point is tried, and all with `--all-seeds`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from tests.simulation.audit import Audit
from tests.simulation.story import QUIET
from tests.world import World, in_world

P1 = Caller(project="p1")
ASKED = {"request_id": "a", "verified_only": False}
_A_PASS = 35.0
_PARTS = 5
Part = Callable[[World], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """`before` runs without a crash. The process crashes somewhere in `act` or in the seconds after it."""

    before: Part
    act: Part
    then: float = 30.0
    wanted: dict[str, Any]
    beyond: bool = False
    """The create comes later than the marketplace promises."""


async def nothing(_: World) -> None:
    """Do nothing: the story begins with an empty account."""


def lost(count: int, call: str = "create", fault: str = "", **args: Any) -> Story:
    """A reservation, one of whose calls goes wrong."""
    wanted = {"count": count, **ASKED}

    async def before(world: World) -> None:
        await world.engine.catalog.first_snapshot()
        if fault:
            world.arm(call, fault, **args)

    return Story(before=before, act=lambda world: world.reserve(**wanted), then=5.0, wanted=wanted)


def rented(act: Part, *, rest: float = 40.0, fault: str = "", **wanted: Any) -> Story:
    """Something happens to two machines that run."""
    asked = {"count": 2, **ASKED, **wanted}

    async def before(world: World) -> None:
        await world.reserve(**asked)
        await world.sleep(rest)
        if fault:
            world.arm("destroy", fault)

    return Story(before=before, act=act, wanted=asked)


async def release(world: World) -> None:
    await world.engine.reservations.release(P1, await the_reservation(world))


async def destroy(world: World) -> None:
    for lease in await world.live():
        await world.engine.instances.destroy(P1, lease.provider, lease.instance_id or "")


async def extend(world: World) -> None:
    until = world.books_clock.now() + timedelta(seconds=120)
    await world.engine.reservations.extend(P1, await the_reservation(world), until)


async def appears(world: World) -> None:
    """Around the moment at which it does."""
    await world.sleep(100)


async def the_reservation(world: World) -> str:
    return (await world.leases())[0].reservation_id


def reappeared() -> Story:
    """A create that is executed after the proof of its absence."""
    wanted = {"count": 1, **ASKED}

    async def before(world: World) -> None:
        await world.reserve(count=1, verified_only=False, keep_late=True)
        world.arm("create", "late_effect", seconds=400)
        await world.reserve(**wanted)
        await world.sleep(390)

    return Story(before=before, act=appears, then=5.0, wanted=wanted, beyond=True)


STORIES: dict[str, Story] = {
    "reserve": lost(2),
    "reserve, an offer is gone": lost(2, fault="offer_gone"),
    "reserve, too fast": lost(1, fault="rate_limited"),
    "reserve, the reply is lost": lost(2, fault="reset_after"),
    "reserve, never sent": lost(1, fault="refuse_connection"),
    "reserve, not executed": lost(1, fault="reset_before"),
    "reserve, executed and 500": lost(1, fault="status_500_after"),
    "reserve, executed and rubbish": lost(1, fault="malformed_json"),
    "reserve, executed late": lost(1, fault="late_effect", seconds=10),
    "reserve, dearer than agreed": lost(1, fault="price_moved", factor=50),
    "reserve, another GPU": lost(1, fault="wrong_gpu"),
    "reserve, the listing fails": lost(1, call="list", fault="status_500_before", times=2),
    "release": rented(release),
    "release while it boots": rented(release, rest=1.0),
    "release, ignored": rented(release, fault="destroy_ignored"),
    "release, refused": rented(release, fault="status_500_before"),
    "destroy": rented(destroy),
    "destroy, the reply is lost": rented(destroy, fault="reset_after"),
    "expire": rented(nothing, rest=55.0, lease=60),
    "extend": rented(extend, rest=30.0, lease=60),
    "reappeared": reappeared(),
}


@pytest.mark.parametrize("name", STORIES)
@pytest.mark.seeds(1, _PARTS)
def test_a_crash_at_any_point_loses_nothing_and_rents_nothing_twice(name: str, seed: int):
    """`seed` selects a part of the points: 0 every fifth one from the first, 1 every fifth one from the second."""
    points = tell(STORIES[name], None)
    assert points >= 4
    for point in range(1 + seed, points + 1, _PARTS):
        try:
            tell(STORIES[name], point)
        except AssertionError as error:
            pytest.fail(f"{name}: died at point {point} of {points}: {error}")


@pytest.mark.parametrize("point", range(1, 9))
def test_a_crash_during_recovery_is_recovered_by_the_next_start(point: int):
    async def story(world: World) -> None:
        audit = Audit(world, beyond=False)
        world.arm("create", "hang_after", seconds=25)
        call = asyncio.ensure_future(world.reserve(count=2, **ASKED))
        await world.sleep(5)
        await world.kill()
        starting = asyncio.create_task(world.start(die_after=point))
        await asyncio.wait([starting])
        while not world.life.dead:
            await world.sleep(1)
        await recovered(world, audit)
        assert call.cancelled()
        await repeated(world, {"count": 2, **ASKED})

    in_world(story, machines=5)


def test_there_are_crash_points_before_and_after_every_commit_and_call():
    seen = []

    async def story(world: World) -> None:
        await world.engine.catalog.first_snapshot()
        world.overhear.append(seen.append)
        before = world.life.points
        await world.reserve(**{"count": 1, **ASKED})
        creates = [request for request in seen if request.method == "PUT"]
        assert len(creates) == 1
        commits_of_one_lease = 4  # intent, call started, created, concluded
        assert world.life.points - before >= 2 * (len(seen) + commits_of_one_lease)

    in_world(story, machines=5)


def tell(story: Story, point: int | None) -> int:
    """Run a story with a crash at a point. Returns the number of its points."""

    async def run(world: World) -> int:
        audit = Audit(world, beyond=story.beyond)
        await story.before(world)
        began = world.life.points
        if point is not None:
            world.life.die_after(point)
        call = asyncio.ensure_future(story.act(world))
        await until_dead(world, call, story.then)
        points = world.life.points - began
        await recovered(world, audit)
        await asyncio.wait([call])
        await repeated(world, story.wanted)
        await world.sleep(_A_PASS)
        audit.final()
        return points

    return in_world(run, machines=5, boot_time=(3.0, 10.0))


async def until_dead(world: World, call: "asyncio.Future[Any]", then: float) -> None:
    """Wait until the call has ended and some time has passed, or until the process has crashed."""
    left = then
    while left > 0 and not world.life.dead:
        await world.sleep(0.5)
        left -= 0.5 if call.done() else 0.0


async def recovered(world: World, audit: Audit) -> None:
    """Start the process again if it has crashed, and wait until everything is at rest."""
    if world.life.dead:
        await world.kill()
        await world.start()
    world.life.spare()
    await world.sleep(_A_PASS)
    waited = _A_PASS
    while audit.unfinished():
        assert waited <= QUIET, audit.unfinished()
        await world.sleep(10)
        waited += 10
        audit.safety()
    audit.safety()
    await world.books_agree()


async def repeated(world: World, wanted: dict[str, Any]) -> None:
    """Send the same request again: if its row is stored, nothing new is rented."""
    known = await world.db.read(lambda tx: tx.fetch("SELECT id FROM reservations WHERE request_id = 'a'"))
    before = world.calls("create")
    with suppress(Refusal):
        await world.reserve(**wanted)
    assert world.calls("create") == before or not known
