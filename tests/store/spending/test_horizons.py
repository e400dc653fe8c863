"""A machine without an end holds a rolling horizon, and ends by the policy before the money does."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import Policy
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.outcomes import spending
from gpuproxy.ports import Tx
from gpuproxy.store import leases, limits
from tests.store.spending.test_admission import DOLLAR, limit, put, usage
from tests.warmpool.test_life import provisioned
from tests.world import World, in_world

HORIZON = 1800.0
S = LeaseState
P1 = Caller(project="p1")


def story_of(story: Any, **settings: Any) -> None:
    in_world(story, settings={"hold_horizon": HORIZON, **settings})


async def states(world: World) -> list[LeaseState]:
    return [lease.state for lease in await world.leases()]


async def budget(world: World, hours: float, policy: Policy) -> int:
    """A limit for so many hours of all that runs."""
    price = sum(lease.observed.price for lease in await world.live())
    await put(world, limit(price * hours / DOLLAR, "month", policy=policy))
    return round(price * hours)


def test_the_hold_of_a_machine_without_an_end_is_extended_while_it_runs():
    async def story(world: World) -> None:
        (lease,) = (await world.reserve(1)).leases
        await put(world, limit(1000))
        await world.sleep(3 * HORIZON)
        hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
        assert hold is not None
        left = hold.until / 1e6 - world.clock.now().timestamp()
        assert HORIZON / 2 < left <= HORIZON
        found = await usage(world)
        assert found.held == pytest.approx(lease.observed.price * left / 3600, rel=0.02)
        assert found.spent > 0

    story_of(story)


def test_a_create_of_unknown_outcome_is_held_for_as_long_as_it_is_unknown():
    async def story(world: World) -> None:
        world.arm("list", "status_500_before", times=0)
        world.arm("create", "reset_after")
        asking = asyncio.create_task(world.reserve(1, request_id="unknown", seconds=60))
        await world.sleep(4 * HORIZON)
        [lease] = await world.leases()
        assert lease.state is S.UNKNOWN
        found = await usage(world)
        assert found.spent + found.held >= lease.observed.price * 4 * HORIZON / 3600
        assert len(world.alive()) == 1
        asking.cancel()

    story_of(story)


def test_a_refused_extension_releases_the_machine_before_the_money_is_spent():
    async def story(world: World) -> None:
        await world.reserve(1)
        allowed = await budget(world, 2, "release_newest")
        most = 0
        for _ in range(200):
            await world.sleep(60)
            found = await usage(world, limit(1, "month"))
            most = max(most, found.spent + found.held)
            if not world.alive():
                break
        assert world.alive() == {}
        assert (await world.leases())[0].reason is Reason.BUDGET_EXCEEDED
        billed = world.market["bill_micro_usd"]
        assert allowed / 2 < billed <= allowed
        assert most <= allowed
        await world.books_agree()

    story_of(story)


def test_the_newest_machine_makes_room_for_the_older_one():
    async def story(world: World) -> None:
        old = (await world.reserve(1)).leases[0]
        await world.sleep(120)
        await world.reserve(1)
        allowed = await budget(world, 1.5, "release_newest")
        for _ in range(200):
            await world.sleep(30)
            if S.RELEASED in await states(world):
                break
        assert await states(world) == [S.ACTIVE, S.RELEASED]
        assert (await world.leases())[0].id == old.id
        found = await usage(world, limit(1, "month"))
        assert found.spent + found.held <= allowed

    story_of(story)


def test_stop_newest_stops_the_machine_and_keeps_its_disk():
    async def story(world: World) -> None:
        await world.reserve(1)
        await world.sleep(600)
        assert await states(world) == [S.ACTIVE]
        await budget(world, 1.5, "stop_newest")
        await world.sleep(4 * 3600)
        assert await states(world) == [S.PARKED], "its storage goes on to be billed, and is no reason to release it"
        (lease,) = await world.live()
        with pytest.raises(Exception, match="spending limit"):
            await world.engine.machines.start(P1, lease.provider, str(lease.instance_id))
        assert await states(world) == [S.PARKED]

    story_of(story)


def test_no_new_lets_the_machine_run_on_and_refuses_new_ones():
    async def story(world: World) -> None:
        await world.reserve(1)
        await budget(world, 1, "no_new")
        await world.sleep(3 * 3600)
        assert await states(world) == [S.ACTIVE]
        with pytest.raises(Exception, match="spending limit"):
            await world.reserve(1)

    story_of(story)


def test_a_machine_with_an_end_is_held_to_its_end_and_never_ended_by_a_limit():
    async def story(world: World) -> None:
        await world.reserve(1, lease=2 * 3600)
        await budget(world, 2.1, "release_newest")
        await world.sleep(2 * 3600 - 30)
        assert await states(world) == [S.ACTIVE]

    story_of(story)


def test_after_a_restart_the_holds_are_extended():
    async def story(world: World) -> None:
        (lease,) = (await world.reserve(1)).leases
        await put(world, limit(1000))
        await world.kill()
        await world.sleep(2 * HORIZON)
        await world.start()
        await world.sleep(60)
        hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
        assert hold is not None
        assert hold.until / 1e6 > world.clock.now().timestamp()

    story_of(story)


def test_a_stopped_machine_holds_its_disk_and_a_start_asks_for_its_price():
    async def story(world: World) -> None:
        await world.reserve(1, lease=10 * 3600)
        await world.sleep(600)
        (lease,) = await world.live()
        await world.engine.machines.stop(P1, lease.provider, str(lease.instance_id))
        await world.sleep(30)
        found = await usage(world, limit(1, "30d"))
        disk = lease.observed.disk_price
        assert found.held == pytest.approx(disk * 9.8, rel=0.05)
        await put(world, limit((found.spent + lease.observed.price) / DOLLAR, "30d"))
        with pytest.raises(Exception, match="spending limit"):
            await world.engine.machines.start(P1, lease.provider, str(lease.instance_id))
        assert (await world.live())[0].pending.stop_at is not None

    story_of(story)


def test_a_volume_whose_price_rises_above_a_limit_is_held_and_never_stopped():
    async def story(world: World) -> None:
        await world.sleep(5)
        view = await provisioned(world)
        assert view.volume is not None
        now = await usage(world, limit(1000))
        await put(world, limit((now.spent + now.held) / DOLLAR))

        def rises(tx: Tx) -> int:
            old = leases.get(tx, view.volume.id)
            dearer = replace(old, observed=replace(old.observed, price=Micro(100 * old.observed.price)))
            spending.followed_price(tx, old, dearer)
            return dearer.observed.price

        price = await world.db.write(rises)
        volume = await world.db.read(lambda tx: leases.get(tx, view.volume.id))
        hold = await world.db.read(lambda tx: limits.hold_of(tx, view.volume.id))
        assert volume.pending.stop_at is None
        assert hold is not None
        assert hold.rate == price

    story_of(story)


def test_a_limit_that_is_nearly_reached_is_logged_once(capsys: pytest.CaptureFixture[str]):
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=3600)
        await put(world, limit(1.1 * made.leases[0].observed.price / DOLLAR))
        await world.sleep(120)

    story_of(story)
    said = capsys.readouterr().out
    assert said.count("limit_near") == 1
    assert "limit_reached" not in said
