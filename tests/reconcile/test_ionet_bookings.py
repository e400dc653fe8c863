"""Bookings with the real io.net adapter on the sandbox: what is booked and paid there is what the books say."""

import asyncio
from datetime import timedelta

import pytest

from gpuproxy.model.bookings import BookingState
from gpuproxy.model.demands import Caller, LaunchSpec
from gpuproxy.model.errors import ProviderUnavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import HttpRequest
from gpuproxy.providers.ionet.adapter import IoNet
from tests import databases
from tests.ionet_world import IoNetWorld, in_ionet_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
_DUE = 50 * 60.0
_MINUTE = 60


async def _agrees(world: IoNetWorld, *, hours: int) -> None:
    """The only machine is booked and paid at the market as the books say, and nothing else is."""
    [row] = [each for each in world.market["instances"] if each["destroyed_at"] is None]
    lease = await world.lease()
    assert lease.prepaid.booked_until is not None
    assert abs(lease.prepaid.booked_until.timestamp() - row["ends_at"]) < 3 * _MINUTE
    assert (lease.prepaid.booked_hours, row["booked_hours"]) == (hours, hours)
    assert row["paid_micro_usd"] == lease.prepaid.paid == await world.cost() == world.market["bill_micro_usd"]
    await world.sums_are_right()


async def _kinds(world: IoNetWorld) -> list[str]:
    return [f"{each.kind} {each.state}" for each in await world.bookings()]


@pytest.mark.parametrize(
    ("fault", "executed"),
    [
        ("reset_after", True),
        ("reset_before", False),
        ("status_after", True),
        ("status_before", False),
        ("html_502", False),
    ],
)
def test_an_extension_without_a_clear_answer_is_paid_once(fault: str, *, executed: bool):
    async def story(world: IoNetWorld) -> None:
        await world.rent()
        world.arm_ionet("extend", fault)
        await world.sleep(_DUE + 300)
        assert world.extended() == (1 if executed else 2)
        outcome = ["extend confirmed"] if executed else ["extend refused", "extend confirmed"]
        assert await _kinds(world) == ["create confirmed", *outcome]
        await _agrees(world, hours=2)

    in_ionet_world(story)


def test_missing_credit_is_reported_and_the_extension_is_sent_again():
    async def story(world: IoNetWorld) -> None:
        await world.rent()
        world.arm_ionet("extend", "insufficient_credit", times=2)
        await world.sleep(_DUE + 10)
        assert (await world.lease()).prepaid.extend_refusal != ""
        await world.sleep(300)
        assert (await world.lease()).prepaid.extend_refusal == ""
        await _agrees(world, hours=2)

    in_ionet_world(story)


@pytest.mark.parametrize("sent", [False, True])
def test_a_crash_around_the_send_of_an_extension_buys_nothing_twice(*, sent: bool):
    async def story(world: IoNetWorld) -> None:
        def dies_at_the_market(request: HttpRequest) -> None:
            if request.url.endswith("/extend"):
                world.life.end()

        def dies_after_the_commit() -> None:
            if databases.rows(world.db, "SELECT 1 FROM bookings WHERE kind = 'extend'"):
                world.life.end()

        await world.rent()
        if sent:
            world.overhear.append(dies_at_the_market)
        else:
            world.after_writes.append(dies_after_the_commit)
        await world.sleep(_DUE + 5)
        world.overhear.clear()
        world.after_writes.clear()
        assert world.life.dead
        assert world.extended() == int(sent)
        await world.restart()
        await world.sleep(300)
        assert world.extended() == 1
        await _agrees(world, hours=2)

    in_ionet_world(story)


def test_a_machine_that_is_destroyed_early_is_refunded_as_the_market_does():
    async def story(world: IoNetWorld) -> None:
        made = await world.rent()
        await world.sleep(1.5 * 3600)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(300)
        assert (await world.lease()).state is LeaseState.RELEASED
        assert world.alive() == {}
        [row] = world.market["instances"]
        assert row["refunded_micro_usd"] > 0
        # The market counts from the start of the machine, and the books from the create.
        assert abs(await world.cost() - world.market["bill_micro_usd"]) <= row["price_per_hour"] * 1_000_000 / 60
        await world.sums_are_right()

    in_ionet_world(story, hours=3)


async def destroyed_before_a_crash(world: IoNetWorld) -> None:
    """A destroy is carried out, and the server dies before the answer. It is gone for 20 minutes."""
    made = await world.rent()
    await world.sleep(1.5 * 3600)
    world.arm_ionet("destroy", "hang_after")
    await world.engine.reservations.release(P1, made.reservation.id)
    while world.alive():
        await world.sleep(1)
    await world.kill()
    await world.sleep(1200)
    await world.start()
    await world.sleep(600)
    assert (await world.lease()).state is LeaseState.RELEASED


def test_a_refund_counts_from_the_end_that_the_marketplace_tells_if_no_destroy_was_answered():
    async def story(world: IoNetWorld) -> None:
        await destroyed_before_a_crash(world)
        [row] = world.market["instances"]
        assert abs(await world.cost() - world.market["bill_micro_usd"]) <= row["price_per_hour"] * 2_000_000 / 60
        await world.sums_are_right()

    in_ionet_world(story, hours=3)


def test_a_refund_is_not_overestimated_if_the_marketplace_does_not_tell_the_end(monkeypatch: pytest.MonkeyPatch):
    async def unreadable(*_: object) -> None:
        raise ProviderUnavailable("the read failed")

    monkeypatch.setattr(IoNet, "used", unreadable)

    async def story(world: IoNetWorld) -> None:
        await destroyed_before_a_crash(world)
        [row] = world.market["instances"]
        more = await world.cost() - world.market["bill_micro_usd"]
        assert 0 < more <= row["price_per_hour"] * 30_000_000 / 60
        await world.sums_are_right()

    in_ionet_world(story, hours=3)


def test_a_refund_counts_from_the_end_of_a_machine_that_ran_on_after_an_accepted_destroy():
    async def story(world: IoNetWorld) -> None:
        made = await world.rent()
        await world.sleep(1.5 * 3600)
        world.arm_ionet("destroy", "destroy_ignored", times=20)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(3600)
        assert (await world.lease()).state is LeaseState.RELEASED
        [row] = world.market["instances"]
        assert row["refunded_micro_usd"] < 1.1 * 3600 * row["price_per_hour"] * 1_000_000 / 3600
        assert abs(await world.cost() - world.market["bill_micro_usd"]) <= row["price_per_hour"] * 3_000_000 / 60
        await world.sums_are_right()

    in_ionet_world(story, hours=3)


def test_what_a_machine_cost_is_read_before_it_is_destroyed_if_its_create_had_no_answer():
    async def story(world: IoNetWorld) -> None:
        world.arm_ionet("create", "price_moved", factor=3)
        world.delay = lambda: 5.0
        call = asyncio.create_task(world.rent(""))
        while not world.alive():
            await world.sleep(1)
        await world.kill()
        call.cancel()
        await world.start()
        await world.engine.reservations.release(P1, (await world.lease()).reservation_id)
        await world.sleep(600)
        assert (await world.lease()).state is LeaseState.RELEASED
        [row] = world.market["instances"]
        assert row["paid_micro_usd"] == 3 * (await world.bookings())[0].amount
        assert abs(await world.cost() - world.market["bill_micro_usd"]) <= row["price_per_hour"] * 3_000_000 / 60
        await world.sums_are_right()

    in_ionet_world(story)


@pytest.mark.parametrize("seconds", [1.0, 30.0, 59.0])
def test_what_a_machine_cost_is_read_although_it_is_released_before_a_second_read(seconds: float):
    async def story(world: IoNetWorld) -> None:
        world.arm_ionet("create", "price_moved", factor=3)
        made = await world.rent()
        await world.sleep(seconds)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(600)
        assert (await world.lease()).state is LeaseState.RELEASED
        [row] = world.market["instances"]
        assert row["paid_micro_usd"] == 3 * (await world.bookings())[0].amount
        assert abs(await world.cost() - world.market["bill_micro_usd"]) <= row["price_per_hour"] * 3_000_000 / 60
        await world.sums_are_right()

    in_ionet_world(story)


def test_a_booking_that_ends_while_the_server_is_down_is_no_loss():
    async def story(world: IoNetWorld) -> None:
        await world.rent()
        await world.sleep(1800)
        await world.kill()
        await world.sleep(2400)
        await world.start()
        await world.sleep(180)
        lease = await world.lease()
        assert (lease.state, lease.reason) == (LeaseState.RELEASED, Reason.BOOKING_ENDED)
        assert await world.cost() == world.market["bill_micro_usd"]

    in_ionet_world(story)


def test_a_create_that_is_found_by_its_name_late_is_one_machine_and_one_booking():
    async def story(world: IoNetWorld) -> None:
        world.arm_ionet("create", "reset_after")
        made = await world.rent()
        assert made.leases[0].state is LeaseState.UNKNOWN
        assert await _kinds(world) == ["create unknown"]
        await world.sleep(400)
        assert (await world.lease()).state is LeaseState.ACTIVE
        await _agrees(world, hours=1)

    in_ionet_world(story, ionet_lag=60.0)


def test_a_create_that_was_never_executed_ends_when_its_longest_booking_is_over():
    async def story(world: IoNetWorld) -> None:
        world.arm_ionet("create", "reset_before")
        await world.rent()
        lease = await world.lease()
        assert lease.creation.call_deadline is not None
        left = lease.creation.call_deadline + timedelta(hours=2) - world.clock.now()
        await world.sleep(left.total_seconds() - 60)
        assert (await world.lease()).state is LeaseState.UNKNOWN
        await world.sleep(300)
        lease = await world.lease()
        assert (lease.state, lease.reason) == (LeaseState.FAILED, Reason.BOOKING_NOT_FOUND)
        assert [each.state for each in await world.bookings()] == [BookingState.UNPROVEN]
        assert world.market["bill_micro_usd"] == await world.cost() == 0
        await world.sums_are_right()

    in_ionet_world(story)


def test_a_machine_whose_log_nobody_can_read_shows_no_boot_report() -> None:
    """Its keys are installed at the create. "not reported" would look like a failure."""

    async def story(world: IoNetWorld) -> None:
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me"
        await world.rent(spec=LaunchSpec(ssh_public_keys=(key,)))
        await world.sleep(300)
        lease = await world.lease()
        assert lease.state is LeaseState.ACTIVE
        assert lease.creation.ssh_keys == (key,)
        assert lease.observed.boot == ()

    in_ionet_world(story)


def test_the_sheet_of_an_account_has_the_price_of_its_booked_machines() -> None:
    async def story(world: IoNetWorld) -> None:
        made = await world.rent()
        await world.sleep(60)
        assert [each.rate for each in (await world.engine.sheets.read("io.net"))[0].accounts] == [270_000]
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(120)
        assert [each.rate for each in (await world.engine.sheets.read("io.net"))[0].accounts] == [0]

    in_ionet_world(story)


@pytest.mark.parametrize(("most", "state"), [(0.27, LeaseState.RELEASED), (0.82, LeaseState.ACTIVE)])
def test_a_machine_that_was_charged_above_the_limit_is_released_once_two_reads_agree(
    most: float, state: LeaseState
) -> None:
    async def story(world: IoNetWorld) -> None:
        world.arm_ionet("create", "price_moved", factor=3)
        await world.rent(max_price=most)
        await world.sleep(600)
        lease = await world.lease()
        assert lease.state is state
        [row] = world.market["instances"]
        assert row["paid_micro_usd"] == 5 * 810_000
        if state is LeaseState.RELEASED:
            assert lease.reason == Reason.PRICE_MOVED
            assert world.alive() == {}
            assert row["refunded_micro_usd"] == 4 * 810_000
        assert abs(await world.cost() - world.market["bill_micro_usd"]) <= 810_000 / 20
        await world.sums_are_right()

    in_ionet_world(story, hours=5)


def test_a_machine_that_was_charged_exactly_the_limit_is_kept() -> None:
    async def story(world: IoNetWorld) -> None:
        await world.rent(max_price=0.27)
        await world.sleep(4 * 3600)
        assert (await world.lease()).state is LeaseState.ACTIVE

    in_ionet_world(story, hours=5)
