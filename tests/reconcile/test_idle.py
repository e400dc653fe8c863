"""Idle machines: which listings make a series, the notice, the release, and what is never released for idleness."""

import asyncio
from datetime import UTC, timedelta
from typing import Any

import pytest

from gpuproxy.edge.messages.reservations import reservation_message
from gpuproxy.model import idleness
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.store import leases
from tests.world import World, in_world

AFTER = timedelta(minutes=20)
CALLER = Caller(project="p1")


async def _one(world: World, after: timedelta = AFTER, **wanted: Any) -> Lease:
    """A ready machine that is released after 20 minutes of idleness."""
    view = await world.reserve(1, release_idle_after=after, **wanted)
    await world.sleep(120)
    lease = await _now(world, view.leases[0])
    assert lease.state is LeaseState.ACTIVE
    return lease


def _use(world: World, lease: Lease, percent: float | None) -> None:
    """The marketplace tells this utilisation of the machine from now on."""
    world.control("POST", f"instances/{lease.instance_id}/gpu_util", {"percent": percent})


async def _now(world: World, lease: Lease) -> Lease:
    return await world.db.read(lambda tx: leases.get(tx, lease.id))


async def _events(world: World, lease: Lease) -> list[str]:
    def read(tx: Any) -> list[str]:
        rows = tx.fetch("SELECT event FROM events WHERE reservation_id = ? ORDER BY seq", (lease.reservation_id,))
        return [row["event"] for row in rows]

    return await world.db.read(read)


# -- the series


def test_an_idle_machine_is_released_after_the_time_that_the_caller_set_with_a_notice_at_half_of_it() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 3.0)
        began = world.clock.now()
        await world.sleep(500)
        idle = await _now(world, lease)
        assert idle.observed.idle_since is not None
        assert timedelta(0) <= idle.observed.idle_since - began <= timedelta(seconds=35)
        assert idle.observed.idle_notice_at is None
        await world.sleep(200)
        assert (await _now(world, lease)).observed.idle_notice_at is not None
        assert (await _events(world, lease)).count("idle_notice") == 1
        await world.sleep(430)
        assert world.alive()
        await world.sleep(200)
        ended = await _now(world, lease)
        assert (ended.state, ended.reason) == (LeaseState.RELEASED, "IDLE")
        assert (await _events(world, lease)).count("release") == 1
        assert world.calls("destroy") == 1
        assert world.created() == 1
        view = await world.view(lease.reservation_id)
        assert view.reservation.state == "released"
        assert "IDLE 1" in view.reservation.message
        await world.books_agree()

    in_world(story)


def test_without_release_idle_after_idleness_is_shown_and_nothing_is_released() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, timedelta(0))
        _use(world, lease, 0.0)
        await world.sleep(1500)
        idle = await _now(world, lease)
        assert idle.state is LeaseState.ACTIVE
        assert idle.observed.idle_since is not None
        assert idle.observed.idle_notice_at is None

    in_world(story)


@pytest.mark.parametrize(
    ("percent", "below", "counts"), [(5.0, 5.0, True), (5.1, 5.0, False), (None, 5.0, False), (30.0, 30.0, True)]
)
def test_a_machine_is_idle_at_or_below_the_threshold_and_unknown_is_not_idle(
    percent: float | None, below: float, counts: bool
) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, percent)
        await world.sleep(500)
        assert ((await _now(world, lease)).observed.idle_since is not None) is counts
        await world.sleep(900)
        assert bool(world.alive()) is not counts

    in_world(story, settings={"idle_below": below})


@pytest.mark.parametrize("percent", [50.0, None])
def test_one_listing_that_shows_work_or_no_value_ends_the_series(percent: float | None) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 0.0)
        await world.sleep(900)
        assert (await _now(world, lease)).observed.idle_notice_at is not None
        _use(world, lease, percent)
        await world.sleep(35)
        seen = (await _now(world, lease)).observed
        assert (seen.idle_since, seen.idle_notice_at) == (None, None)
        _use(world, lease, 0.0)
        await world.sleep(900)
        assert world.alive()
        assert (await _events(world, lease)).count("idle_notice") == 2
        await world.sleep(500)
        assert not world.alive()

    in_world(story)


def test_one_idle_listing_is_no_verdict_and_bursts_of_work_write_nothing() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, timedelta(minutes=10))
        version = (await _now(world, lease)).version
        for _ in range(6):
            _use(world, lease, 0.0)
            await world.sleep(180)
            _use(world, lease, 90.0)
            await world.sleep(35)
        after = await _now(world, lease)
        assert (after.state, after.version) == (LeaseState.ACTIVE, version)

    in_world(story)


def test_listings_of_an_idle_machine_do_not_write_the_lease_or_events() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, timedelta(0))
        _use(world, lease, 0.0)
        await world.sleep(600)
        version, events = (await _now(world, lease)).version, len(await _events(world, lease))
        listings = world.calls("list")
        await world.sleep(900)
        assert world.calls("list") > listings + 25
        assert ((await _now(world, lease)).version, len(await _events(world, lease))) == (version, events)

    in_world(story)


# -- times without listings


@pytest.mark.parametrize(("silent", "kept"), [(120.0, True), (900.0, False)])
def test_a_time_without_listings_does_not_count_as_idle(silent: float, kept: bool) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 0.0)
        await world.sleep(500)
        since = (await _now(world, lease)).observed.idle_since
        world.arm("list", "status_before", times=0)
        await world.sleep(silent)
        assert (await _now(world, lease)).observed.idle_since == since
        world.control("DELETE", "faults")
        await world.sleep(400)
        assert ((await _now(world, lease)).observed.idle_since == since) is kept
        await world.sleep(350)
        assert bool(world.alive()) is not kept

    in_world(story)


@pytest.mark.parametrize(("down", "kept"), [(60.0, True), (3600.0, False)])
def test_a_restart_keeps_the_series_and_a_long_time_down_ends_it_with_its_notice(down: float, kept: bool) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 0.0)
        await world.sleep(700)
        before = (await _now(world, lease)).observed
        assert before.idle_since is not None
        assert before.idle_notice_at is not None
        await world.kill()
        await world.sleep(down)
        await world.start()
        await world.sleep(400)
        after = (await _now(world, lease)).observed
        assert (after.idle_since == before.idle_since) is kept
        assert (after.idle_notice_at is not None) is kept
        assert world.alive()
        await world.sleep(200)
        assert bool(world.alive()) is not kept

    in_world(story)


# -- what is not idle


def test_a_machine_that_is_not_ready_is_not_idle() -> None:
    async def story(world: World) -> None:
        world.arm("create", "never_ready", times=1)
        view = await world.reserve(1, release_idle_after=timedelta(minutes=10), on_not_ready="keep")
        _use(world, view.leases[0], 0.0)
        await world.sleep(400)
        lease = await _now(world, view.leases[0])
        assert (lease.state, lease.observed.idle_since) == (LeaseState.STARTING, None)

    in_world(story)


def test_a_stopped_machine_is_not_idle_and_its_series_begins_anew_after_its_start() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 0.0)
        await world.sleep(900)
        await world.engine.machines.stop(CALLER, "vast.ai", str(lease.instance_id))
        await world.sleep(300)
        stopped = await _now(world, lease)
        assert (stopped.state, stopped.observed.idle_since) == (LeaseState.PARKED, None)
        await world.engine.machines.start(CALLER, "vast.ai", str(lease.instance_id))
        await world.sleep(900)
        assert world.alive()
        await world.sleep(500)
        assert not world.alive()

    in_world(story)


# -- the notice and the release


def test_a_machine_that_works_again_after_the_notice_is_kept() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 0.0)
        await world.sleep(1100)
        noticed = await _now(world, lease)
        assert "Unless they work before, it is released at" in idleness.warning(noticed, 0.0)
        _use(world, lease, 80.0)
        await world.sleep(600)
        kept = await _now(world, lease)
        assert (kept.state, idleness.warning(kept, 80.0)) == (LeaseState.ACTIVE, "")

    in_world(story)


def test_of_several_machines_only_the_idle_one_is_released_and_none_replaces_it() -> None:
    async def story(world: World) -> None:
        view = await world.reserve(3, packing="single", release_idle_after=timedelta(minutes=10))
        await world.sleep(120)
        idle = await _now(world, view.leases[1])
        _use(world, idle, 0.0)
        await world.sleep(800)
        states = [lease.state for lease in (await world.view(view.reservation.id)).leases]
        assert states == [LeaseState.ACTIVE, LeaseState.RELEASED, LeaseState.ACTIVE]
        assert (world.created(), world.calls("destroy")) == (3, 1)
        await world.books_agree()

    in_world(story)


def test_a_crash_around_the_release_for_idleness_still_makes_it_one_release() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        _use(world, lease, 0.0)
        await world.sleep(1190)
        for _ in range(6):
            await world.restart()
            await world.sleep(20)
        await world.sleep(300)
        assert not world.alive()
        assert (await _events(world, lease)).count("release") == 1
        await world.books_agree()

    in_world(story)


def test_machines_that_are_paid_in_advance_are_accepted_and_say_that_they_are_not_released() -> None:
    async def story(world: World) -> None:
        view = await world.reserve(1, release_idle_after=timedelta(minutes=10), providers=frozenset({"io.net"}))
        await world.sleep(600)
        lease = await _now(world, view.leases[0])
        assert lease.state is LeaseState.ACTIVE
        assert lease.observed.idle_since is None
        assert idleness.warning(lease, None) == "it is paid in advance, so it is not released when it is idle"

    in_world(story, prepaid_accounts=1)


def test_a_machine_of_a_warm_pool_is_shown_as_idle_and_never_released_for_it() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, timedelta(minutes=10))
        await world.db.write(
            lambda tx: tx.execute("UPDATE reservations SET kind = 'pool' WHERE id = ?", (lease.reservation_id,))
        )
        _use(world, lease, 0.0)
        await world.sleep(1500)
        idle = await _now(world, lease)
        assert idle.state is LeaseState.ACTIVE
        assert idle.observed.idle_since is not None
        assert idle.observed.idle_notice_at is None

    in_world(story)


# -- what is shown


def test_the_utilisation_of_the_last_listing_is_shown_and_none_while_the_marketplace_is_silent() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, timedelta(0))

        async def shown() -> tuple[float | None, ...]:
            one = await world.engine.instances.by_contract(CALLER, "vast.ai", str(lease.instance_id))
            [listed] = await world.engine.instances.rented(CALLER)
            assert listed.gpu_util == one.gpu_util
            assert (await world.view(lease.reservation_id)).gpu_utils == (one.gpu_util,)
            return (one.gpu_util,)

        assert await shown() == (97.0,)
        _use(world, lease, 12.5)
        await world.sleep(35)
        assert await shown() == (12.5,)
        _use(world, lease, None)
        await world.sleep(35)
        assert await shown() == (None,)
        _use(world, lease, 12.5)
        world.arm("list", "status_before", times=0)
        await world.sleep(35)
        assert await shown() == (None,)

    in_world(story)


def test_a_watcher_is_told_of_the_notice_with_the_time_of_the_release() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        told: list[str] = []

        async def follow() -> None:
            async for _, view in world.engine.reservations.watch(CALLER, lease.reservation_id, ""):
                told.extend(
                    instance.warnings[0] for instance in reservation_message(view).instances if instance.warnings
                )

        watching = asyncio.create_task(follow())
        _use(world, lease, 0.0)
        await world.sleep(700)
        watching.cancel()
        idle = await _now(world, lease)
        at = idleness.release_at(idle)
        assert at is not None
        assert told[-1].endswith(f"it is released at {at:%Y-%m-%d %H:%MZ}")
        shown = reservation_message(await world.view(lease.reservation_id))
        assert shown.release_idle_after.ToTimedelta() == AFTER
        assert shown.instances[0].idle_release_at.ToDatetime(UTC) == at
        assert shown.instances[0].idle_since.ToDatetime(UTC) == idle.observed.idle_since
        assert shown.instances[0].gpu_util == 0.0

    in_world(story)


def test_a_machine_that_would_be_released_says_that_its_utilisation_is_not_known() -> None:
    async def story(world: World) -> None:
        lease, other = await _one(world), await _one(world, timedelta(0))
        for one in (lease, other):
            _use(world, one, None)
        await world.sleep(35)
        said = "vast.ai does not tell its GPU utilisation now, so it is not released when it is idle"
        [instance] = reservation_message(await world.view(lease.reservation_id)).instances
        assert (list(instance.warnings), instance.HasField("gpu_util")) == ([said], False)
        [instance] = reservation_message(await world.view(other.reservation_id)).instances
        assert not instance.warnings

    in_world(story)
