"""How leases end: destroyed or first stopped, on time across restarts, with a notice, and with the end in the label."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model import lease_ends
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, Unavailable
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.ports import HttpRequest
from gpuproxy.store import leases
from tests.world import World, in_world

LEASE = 3600
DAY = timedelta(days=1)
CALLER = Caller(project="p1")


async def _one(world: World, **wanted: Any) -> Lease:
    """A ready machine with an end."""
    view = await world.reserve(1, **{"lease": LEASE, **wanted})
    await world.sleep(120)
    [lease] = [each for each in await world.live() if each.reservation_id == view.reservation.id]
    assert lease.state is LeaseState.ACTIVE
    return lease


def _label(world: World, lease: Lease) -> str | None:
    label: str | None = world.alive()[str(lease.instance_id)]["label"]
    return label


def _written(world: World, lease: Lease, label: str | None) -> None:
    instance = world.sandbox.market.instances[int(str(lease.instance_id))]
    world.sandbox.market.label(instance, label)


def _status(world: World, lease: Lease) -> str:
    return str(world.alive()[str(lease.instance_id)]["status"])


async def _now(world: World, lease: Lease) -> Lease:
    return await world.db.read(lambda tx: leases.get(tx, lease.id))


async def _until(world: World, lease: Lease, seconds: float) -> None:
    """Until so many seconds after the end that the lease had."""
    assert lease.expires_at is not None
    await world.sleep((lease.expires_at - world.clock.now()).total_seconds() + seconds)


# -- the end


def test_an_end_that_the_caller_set_destroys_within_a_minute() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        await _until(world, lease, -5)
        assert world.alive()
        await _until(world, lease, 60)
        assert not world.alive()

    in_world(story)


@pytest.mark.parametrize("seconds", [3600.0, 86_400.0])
def test_a_deadline_that_passes_while_the_server_is_down_destroys_within_a_minute_of_its_return(seconds: float) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        await world.kill()
        await _until(world, lease, seconds)
        assert world.alive()
        await world.start()
        await world.sleep(60)
        assert not world.alive()
        assert (await _now(world, lease)).reason == "EXPIRED"

    in_world(story)


@pytest.mark.parametrize("seconds", [7200, 7230, 7260, 7290])
def test_a_deadline_that_passes_while_the_provider_is_down_destroys_within_a_minute_of_its_return(seconds: int) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        world.arm("any", "status_before", times=0)
        await _until(world, lease, seconds)
        assert world.alive()
        world.control("DELETE", "faults")
        await world.sleep(60)
        assert not world.alive()

    in_world(story)


def test_the_return_of_the_provider_does_not_shorten_the_pause_of_a_rate_limit() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        await _until(world, lease, -60)
        world.arm("list", "status_before", times=0)
        world.arm("destroy", "rate_limited", retry_after=240)
        await _until(world, lease, 60)
        world.control("DELETE", "faults")
        await world.sleep(170)
        assert world.calls("destroy") == 1
        await world.sleep(60)
        assert not world.alive()

    in_world(story)


def test_a_default_end_stops_first_and_destroys_after_the_grace_also_across_restarts() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, lease_grace=DAY)
        await _until(world, lease, 60)
        assert _status(world, lease) == "stopped"
        await world.restart()
        await _until(world, lease, 86_400 - 60)
        assert (_status(world, lease), (await _now(world, lease)).state) == ("stopped", LeaseState.PARKED)
        await _until(world, lease, 86_400 + 60)
        assert not world.alive()

    in_world(story)


def test_without_a_grace_a_default_end_destroys_at_once() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, lease_grace=timedelta(0))
        await _until(world, lease, 60)
        assert not world.alive()

    in_world(story)


@pytest.mark.parametrize("down", ["server", "provider"])
def test_a_machine_is_stopped_within_a_minute_of_the_return_although_its_default_end_passed_before(down: str) -> None:
    async def story(world: World) -> None:
        lease = await _one(world, lease_grace=DAY)
        if down == "server":
            await world.kill()
        else:
            world.arm("any", "status_before", times=0)
        await _until(world, lease, 3600)
        assert _status(world, lease) == "running"
        if down == "server":
            await world.start()
        else:
            world.control("DELETE", "faults")
        await world.sleep(60)
        assert _status(world, lease) == "stopped"

    in_world(story)


def test_a_machine_that_is_kept_after_its_end_is_stopped_again_and_can_only_be_started_once_it_is_extended() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, lease_grace=DAY)
        await _until(world, lease, 60)
        instance = world.sandbox.market.instances[int(str(lease.instance_id))]
        assert world.sandbox.market.start(instance)
        await world.sleep(120)
        assert _status(world, lease) == "stopped"
        with pytest.raises(FailedPrecondition) as refused:
            await world.engine.machines.start(CALLER, "vast.ai", str(lease.instance_id))
        assert refused.value.reason == "RESERVATION_OVER"
        end = world.clock.now() + timedelta(hours=2)
        await world.engine.reservations.extend(CALLER, lease.reservation_id, end)
        await world.engine.machines.start(CALLER, "vast.ai", str(lease.instance_id))
        await world.sleep(120)
        assert _status(world, lease) == "running"
        await world.sleep(7200)
        assert not world.alive()

    in_world(story)


# -- the notice


@pytest.mark.parametrize(("lease", "notice"), [(36_000, 600), (1200, 120)])
def test_a_lease_ends_soon_10_minutes_or_a_tenth_of_it_before_its_end(lease: int, notice: int) -> None:
    async def story(world: World) -> None:
        rented = await _one(world, lease=lease)
        await _until(world, rented, -notice - 5)
        assert not lease_ends.is_soon(await _now(world, rented))
        await _until(world, rented, -notice + 5)
        assert lease_ends.is_soon(await _now(world, rented))
        await world.engine.reservations.extend(CALLER, rented.reservation_id, world.clock.now() + timedelta(hours=9))
        assert not lease_ends.is_soon(await _now(world, rented))

    in_world(story)


def test_a_lease_without_an_end_or_a_notice_of_0_never_ends_soon() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        await _until(world, lease, -5)
        assert not lease_ends.is_soon(await _now(world, lease))
        assert lease_ends.notice_at(replace(lease, expires_at=None), 600) is None

    in_world(story, settings={"ending_soon": 0.0})


# -- the label


def test_the_label_of_a_machine_with_an_end_carries_it_and_other_labels_do_not() -> None:
    async def story(world: World) -> None:
        lease, endless = await _one(world), await _one(world, lease=0)
        assert lease.expires_at is not None
        assert _label(world, lease) == world.engine.signer.with_end(lease.label, lease.expires_at, "d")
        assert _label(world, endless) == endless.label
        await world.books_agree()

    in_world(story)


@pytest.mark.parametrize(
    "label", ["mine", None, "{plain}", "{own}x", "gpx-abc234-slotslot-01-abc234.ezzzzzz.d.abcdefgh"]
)
def test_a_changed_label_is_written_anew_and_the_machine_stays_ours(label: str | None) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        own = _label(world, lease)
        assert own is not None
        _written(world, lease, None if label is None else label.format(plain=lease.label, own=own))
        await world.sleep(120)
        assert _label(world, lease) == own
        assert [each.id for each in await world.live()] == [lease.id]

    in_world(story)


def test_a_label_that_stays_hidden_is_not_written_again_and_again() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        before = world.calls("label")
        instance = world.sandbox.market.instances[int(str(lease.instance_id))]
        for _ in range(60):
            world.sandbox.market.label(instance, None)
            await world.sleep(30)
        assert 3 <= world.calls("label") - before <= 6

    in_world(story)


def test_a_machine_that_ended_itself_while_the_server_was_down_is_released_and_not_lost() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        await world.kill()
        await _until(world, lease, 900)
        world.sandbox.tick()
        world.sandbox.market.destroy(world.sandbox.market.instances[int(str(lease.instance_id))])
        await world.sleep(7200)
        await world.start()
        await world.sleep(300)
        ended = await _now(world, lease)
        assert (ended.state, ended.reason) == (LeaseState.RELEASED, "EXPIRED")

    in_world(story)


def test_a_machine_that_vanished_before_its_end_is_lost() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        await world.kill()
        await _until(world, lease, -900)
        world.sandbox.tick()
        world.sandbox.market.destroy(world.sandbox.market.instances[int(str(lease.instance_id))])
        await world.start()
        await world.sleep(300)
        assert (await _now(world, lease)).state is LeaseState.LOST

    in_world(story)


# -- extensions


def _labels_sent(world: World) -> list[str]:
    sent: list[str] = []

    def hear(request: HttpRequest) -> None:
        if request.method == "PUT" and b'"label"' in (request.body or b"") and "/instances/" in request.url:
            sent.append(json.loads(request.body or b"{}")["label"])

    world.overhear.append(hear)
    return sent


def test_an_extension_writes_the_label_and_reads_it_back_before_it_counts() -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        sent = _labels_sent(world)
        assert lease.expires_at is not None
        end = lease.expires_at + timedelta(hours=1)
        reads = world.calls("get")
        view = await world.engine.reservations.extend(CALLER, lease.reservation_id, end)
        assert view.reservation.expires_at == end
        assert sent == [world.engine.signer.with_end(lease.label, end, "d")] == [_label(world, lease)]
        assert world.calls("get") == reads + 1
        await world.engine.reservations.extend(CALLER, lease.reservation_id, end)
        await world.sleep(120)
        assert len(sent) == 1  # a repeat changes nothing
        await _until(world, lease, 3600 - 5)
        assert world.alive()
        await _until(world, lease, 3660)
        assert not world.alive()

    in_world(story)


@pytest.mark.parametrize(
    ("call", "fault"),
    [("label", "status_before"), ("label", "hang_after"), ("label", "rate_limited"), ("get", "status_before"),
     ("label", "refused_200")],
)  # fmt: skip
def test_an_extension_that_is_not_read_back_leaves_the_old_end_and_can_be_repeated(call: str, fault: str) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        assert lease.expires_at is not None
        old, end = _label(world, lease), lease.expires_at + timedelta(hours=1)
        world.arm(call, fault, times=1)
        with pytest.raises(Unavailable) as refused:
            await world.engine.reservations.extend(CALLER, lease.reservation_id, end)
        assert refused.value.retry_after > 0
        assert (await _now(world, lease)).expires_at == lease.expires_at
        await world.sleep(120)
        assert _label(world, lease) == old
        view = await world.engine.reservations.extend(CALLER, lease.reservation_id, end)
        assert view.reservation.expires_at == end
        assert _label(world, lease) == world.engine.signer.with_end(lease.label, end, "d")

    in_world(story)


@pytest.mark.parametrize("point", range(1, 5))
def test_a_crash_during_an_extension_leaves_a_label_that_ends_no_machine_early(point: int) -> None:
    async def story(world: World) -> None:
        lease = await _one(world)
        assert lease.expires_at is not None
        end = lease.expires_at + timedelta(hours=1)
        world.life.die_after(point)
        try:
            await world.engine.reservations.extend(CALLER, lease.reservation_id, end)
        except BaseException as error:  # noqa: BLE001 - however the dead process says it
            assert not isinstance(error, AssertionError)
        await world.restart()
        allowed = [world.engine.signer.with_end(lease.label, at, "d") for at in (lease.expires_at, end)]
        counts = (await _now(world, lease)).expires_at
        assert _label(world, lease) in (allowed if counts == lease.expires_at else allowed[1:])
        await world.sleep(900)
        assert _label(world, lease) == allowed[counts != lease.expires_at]

    in_world(story)


def test_an_extension_of_many_machines_is_read_back_with_one_listing() -> None:
    async def story(world: World) -> None:
        view = await world.reserve(8, lease=LEASE, packing="single")
        await world.sleep(120)
        gets = world.calls("get")
        end = world.clock.now() + timedelta(hours=3)
        await world.engine.reservations.extend(CALLER, view.reservation.id, end)
        assert world.calls("get") == gets
        for lease in await world.live():
            assert _label(world, lease) == world.engine.signer.with_end(lease.label, end, "d")

    in_world(story)


def test_an_extension_of_a_default_end_makes_it_one_that_destroys() -> None:
    async def story(world: World) -> None:
        lease = await _one(world, lease_grace=DAY)
        label = _label(world, lease)
        assert label is not None
        assert ".s." in label
        assert lease.expires_at is not None
        await world.engine.reservations.extend(CALLER, lease.reservation_id, lease.expires_at)
        assert ".d." in (_label(world, lease) or "")
        await _until(world, lease, 60)
        assert not world.alive()

    in_world(story)
