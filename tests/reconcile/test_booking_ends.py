"""How prepaid machines end: destroyed early with a refund, with their booking, taken away, or never found."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.billing.check import reading_of
from gpuproxy.edge.messages.instances import rented
from gpuproxy.edge.messages.transactions import transaction_message
from gpuproxy.health.checkup import findings
from gpuproxy.model.bookings import BookingState
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.store import totals
from tests.prepaid import P1, PrepaidWorld, in_prepaid_world

pytestmark = pytest.mark.long

_LATE = timedelta(hours=1)


async def _ended(world: PrepaidWorld) -> tuple[LeaseState, Reason]:
    lease = await world.lease()
    return lease.state, lease.reason


def test_a_machine_that_is_destroyed_early_gives_back_what_the_rule_says():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent()
        await world.sleep(1.5 * 3600)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(60)
        assert await _ended(world) == (LeaseState.RELEASED, Reason.RELEASED)
        [row] = world.market_.ended.values()
        assert row["refund"] == 3 * 500_000 - 750_000
        assert await world.cost() == 750_000 == 1_000_000_000 - world.market_.credit
        assert [each.amount for each in await world.bookings()] == [1_500_000, -750_000]
        await world.books_agree_with_market()

    in_prepaid_world(story, hours=3)


def test_the_first_hour_is_never_given_back():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent()
        await world.sleep(300)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(60)
        assert await world.cost() == 500_000 == 1_000_000_000 - world.market_.credit
        assert len(await world.bookings()) == 1

    in_prepaid_world(story)


def test_a_lease_that_ends_before_its_booking_is_destroyed_at_its_end():
    async def story(world: PrepaidWorld) -> None:
        await world.rent(lease=2 * 3600)
        await world.sleep(2 * 3600 + 60)
        assert await _ended(world) == (LeaseState.RELEASED, Reason.EXPIRED)
        assert abs(await world.cost() - 1_000_000) < 2_000
        assert await world.cost() == 1_000_000_000 - world.market_.credit

    in_prepaid_world(story, hours=4)


def test_a_machine_whose_booking_ends_while_the_server_is_down_is_released_and_not_lost():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(1800)
        await world.kill()
        await world.sleep(2400)
        assert world.market_.rented != {}, "nobody has asked, so nothing has noticed"
        await world.start()
        await world.sleep(120)
        assert await _ended(world) == (LeaseState.RELEASED, Reason.BOOKING_ENDED)
        assert await world.cost() == 500_000
        await world.books_agree_with_market()

    in_prepaid_world(story)


def test_a_machine_that_disappears_before_the_end_of_its_booking_is_lost_and_nothing_counts_as_refunded():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(1800)
        world.market_.rented.clear()
        await world.sleep(120)
        assert await _ended(world) == (LeaseState.LOST, Reason.NONE)
        assert await world.cost() == 500_000

    in_prepaid_world(story)


def test_a_machine_that_listings_hide_is_kept_and_extended():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(300)
        world.market_.hidden = True
        await world.sleep(3600)
        assert (await world.lease()).state is LeaseState.ACTIVE
        assert len(world.market_.extended) == 1

    in_prepaid_world(story)


def test_a_machine_that_is_destroyed_while_its_extension_is_unknown_leaves_the_extension_unproven():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent()
        world.market_.on_extend = ["lost"]
        world.market_.reads_fail = True
        await world.sleep(50 * 60 + 10)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(20)
        world.market_.reads_fail = False
        await world.sleep(200)
        assert [each.state for each in await world.bookings()][1] is BookingState.UNPROVEN
        assert await world.cost() == 500_000

    in_prepaid_world(story)


# -- creates without an answer


def test_a_lost_create_is_found_by_its_name_on_a_later_page_and_its_booking_counts_once():
    async def story(world: PrepaidWorld) -> None:
        for number in range(4):  # the listing has three machines on a page
            await world.reserve(2, request_id=f"other-{number}")
        world.market_.on_create = "lost_executed"
        world.market_.hidden = True
        made = await world.reserve(2, request_id="lost")
        [lease] = made.leases
        assert lease.state is LeaseState.UNKNOWN
        world.market_.hidden = False
        await world.sleep(300)
        found = (await world.view(made.reservation.id)).leases[0]
        assert found.state is LeaseState.ACTIVE
        assert found.prepaid.paid == world.market_.rented[str(found.instance_id)]["paid"]
        assert len(world.market_.created) == 5
        await world.books_agree_with_market()

    in_prepaid_world(story)


def test_a_lost_create_that_is_never_found_is_held_until_its_longest_booking_is_over_and_never_sent_again():
    async def story(world: PrepaidWorld) -> None:
        world.market_.on_create = "lost"
        made = await world.rent()
        lease = await world.lease()
        assert lease.state is LeaseState.UNKNOWN
        told, total = await world.engine.spending.transactions(P1, 10, 0)
        [held] = [transaction_message(each) for each in told]
        assert (held.type, held.status, held.amount, total) == ("booking", "pending", 1.0, 1)
        assert await world.cost() == 0
        found = await world.db.read(lambda tx: findings(tx, {(lease.provider, lease.account)}))
        assert [each.kind for each in found] == ["unknown"]
        assert "$1.00" in found[0].text
        deadline = lease.creation.call_deadline
        assert deadline is not None
        until = deadline + timedelta(hours=2) + _LATE - world.clock.now()
        await world.sleep(until.total_seconds() - 60)
        assert (await world.lease()).state is LeaseState.UNKNOWN
        await world.sleep(300)
        assert await _ended(world) == (LeaseState.FAILED, Reason.BOOKING_NOT_FOUND)
        lease = await world.lease()
        assert "may have been paid" in lease.observed.status_message
        assert [each.state for each in await world.bookings()] == [BookingState.UNPROVEN]
        assert await world.engine.spending.transactions(P1, 10, 0) == ([], 0)
        assert await world.cost() == 0
        assert len(world.market_.created) == 1
        assert (await world.view(made.reservation.id)).reservation.state == "failed"
        await world.books_agree_with_market()

    in_prepaid_world(story, hours=2)


def test_a_machine_that_appears_after_its_create_was_given_up_is_destroyed_and_its_booking_counts():
    async def story(world: PrepaidWorld) -> None:
        world.market_.on_create = "lost_executed"
        world.market_.hidden = True
        await world.rent()
        for row in world.market_.rented.values():
            row["until"] = row["until"] + 10 * 3600  # type: ignore[operator]
        await world.sleep(3 * 3600)
        assert await _ended(world) == (LeaseState.FAILED, Reason.BOOKING_NOT_FOUND)
        world.market_.hidden = False
        await world.sleep(300)
        assert world.market_.rented == {}
        assert (await world.lease()).state is LeaseState.RELEASED
        states: dict[str, Any] = {each.kind: each.state for each in await world.bookings()}
        assert states["create"] is BookingState.CONFIRMED
        assert await world.cost() > 0

    in_prepaid_world(story)


def test_a_refused_create_books_nothing_and_another_machine_is_booked():
    async def story(world: PrepaidWorld) -> None:
        world.market_.on_create = "taken"
        made = await world.rent()
        assert len(world.market_.created) == 2
        rows = await world.db.read(lambda tx: tx.fetch("SELECT state, amount FROM bookings ORDER BY lease_id"))
        assert [row["state"] for row in rows] == ["refused", "confirmed"]
        assert sum((await world.view(made.reservation.id)).costs) == 1_000_000_000 - world.market_.credit

    in_prepaid_world(story)


# -- what is shown and summed


def test_an_instance_tells_its_booking_its_payment_and_what_a_destroy_gives_back():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(60)
        shown = rented(await world.lease(), Micro(await world.cost()))
        assert shown.paid == shown.cost_so_far == 1.0
        assert shown.booked_until.ToDatetime().hour == 14
        assert "60 minutes" in shown.refund_rule
        assert "billed_per_hour" not in shown.metadata
        assert not shown.HasField("contract_ends_at")

    in_prepaid_world(story, hours=2)


def test_transactions_list_bookings_and_refunds_and_add_up_to_what_was_spent():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent()
        await world.sleep(3600)
        spent, rate = await world.db.read(totals.spending)
        assert (spent, rate) == (1_000_000, 500_000)
        await world.sleep(900)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(60)
        told, total = await world.engine.spending.transactions(P1, 10, 0)
        messages = [transaction_message(each) for each in told]
        assert [(each.type, each.status, each.amount) for each in messages] == [
            ("refund", "completed", -0.375), ("booking", "completed", 0.5), ("booking", "completed", 0.5)
        ]  # fmt: skip
        assert "1 hour more booked of 2 x RTX 4090" in messages[1].description
        assert len({each.id for each in messages}) == total == 3
        assert await world.cost() == 625_000 == (await world.db.read(totals.spending))[0]
        assert await world.engine.spending.transactions(P1, 1, 1) == (told[1:2], 3)

    in_prepaid_world(story)


def test_bookings_extensions_and_refunds_raise_no_alarm_of_the_billing_check():
    async def story(world: PrepaidWorld) -> None:
        check, alarms = world.engine.billing_checks[0], []
        for number in range(6):
            made = await world.reserve(2, request_id=f"r{number}")
            await world.sleep(1.3 * 3600)
            reading = await check.step()
            alarms.append(reading is not None and reading.alarm)
            await world.engine.reservations.release(P1, made.reservation.id)
            await world.sleep(700)
        assert not any(alarms)
        assert await world.db.read(totals.spending) == (1_000_000_000 - world.market_.credit, 0)

    in_prepaid_world(story)


def test_a_booking_that_the_books_do_not_know_raises_an_alarm():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(1900)
        world.market_.credit -= 500_000
        await world.sleep(1850)
        reading = await world.db.read(lambda tx: reading_of(tx, "moon.example", "vast-1"))
        assert reading is not None
        assert reading.spent - reading.booked == 500_000

    in_prepaid_world(story)


def test_a_surplus_machine_is_destroyed_and_its_booking_is_in_the_books():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(60)
        first = world.market_.machine
        world.market_.rented["77"] = {**first, "machine_id": "77", "machine": "m7", "paid": 510_000}
        await world.sleep(300)
        assert list(world.market_.rented) == [first["machine_id"]]
        [surplus] = [lease for lease in await world.leases() if lease.reason == Reason.SURPLUS]
        assert surplus.prepaid.paid == 510_000
        assert surplus.state is LeaseState.RELEASED
        await world.books_agree_with_market()

    in_prepaid_world(story)
