"""Bookings with the real io.net adapter on the sandbox: what is booked and paid there is what the books say."""

from datetime import timedelta

import pytest

from gpuproxy.model.bookings import BookingState
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import HttpRequest
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
            if list(world.db._writer.conn.execute("SELECT 1 FROM bookings WHERE kind = 'extend'")):
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
