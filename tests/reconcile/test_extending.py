"""Extensions in a world: each is paid for once, whatever is lost, and the books say what the marketplace charged."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import capture_logs

from gpuproxy.health.checkup import findings
from gpuproxy.model.bookings import BookingState
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reasons import Reason
from gpuproxy.ports import HttpRequest
from gpuproxy.store import bookings
from tests import databases
from tests.prepaid import HOUR, P1, PrepaidWorld, in_prepaid_world

pytestmark = pytest.mark.long

Story = Callable[[PrepaidWorld], Awaitable[None]]
DUE = 50 * 60.0
"""Seconds from a create of one hour to its extension."""
CONFIRMED, REFUSED = BookingState.CONFIRMED, BookingState.REFUSED


async def is_booked_as_paid(world: PrepaidWorld, *, hours: int) -> None:
    """The market and the books agree on what is booked and paid."""
    machine, lease = world.market_.machine, await world.lease()
    until = lease.prepaid.booked_until
    assert until is not None
    assert abs(until.timestamp() - machine["until"]) < 180
    assert lease.prepaid.booked_hours == hours == (machine["until"] - machine["from"]) / 3600
    assert lease.prepaid.paid == machine["paid"] == await world.cost()
    assert 1_000_000_000 - world.market_.credit == machine["paid"]


async def booking_states(world: PrepaidWorld) -> list[tuple[str, BookingState]]:
    return [(each.kind, each.state) for each in await world.bookings()]


def _stored(world: PrepaidWorld, query: str) -> list[tuple[Any, ...]]:
    return databases.rows(world.db, query)


def test_a_machine_without_an_end_is_extended_hour_by_hour_near_the_end_of_each_booking():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(DUE - 60)
        assert world.market_.extended == []
        await world.sleep(4 * 3600)
        assert len(world.market_.extended) == 4
        await is_booked_as_paid(world, hours=5)
        await world.books_agree_with_market()

    in_prepaid_world(story)


def test_a_lease_with_an_end_buys_only_the_hours_that_it_needs():
    async def story(world: PrepaidWorld) -> None:
        await world.rent(lease=2.5 * 3600)
        await world.sleep(2.4 * 3600)
        assert len(world.market_.extended) == 2
        await is_booked_as_paid(world, hours=3)

    in_prepaid_world(story)


def test_a_create_books_the_hours_of_the_setting_and_an_extension_buys_as_many_as_are_needed():
    async def story(world: PrepaidWorld) -> None:
        await world.rent(lease=6 * 3600)
        await world.sleep(4 * 3600)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=6)

    in_prepaid_world(story, hours=4)


def test_an_end_that_is_moved_buys_nothing_before_the_end_of_the_booking_is_near():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent(lease=1800)
        await world.engine.reservations.extend(P1, made.reservation.id, world.clock.now() + 3 * HOUR)
        await world.sleep(1200)
        assert world.market_.extended == []
        await world.sleep(DUE - 1200 + 5)
        assert len(world.market_.extended) == 1

    in_prepaid_world(story)


def test_an_end_that_is_moved_near_the_end_of_the_booking_buys_at_once():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent(lease=58 * 60)
        await world.sleep(55 * 60)
        assert world.market_.extended == []
        await world.engine.reservations.extend(P1, made.reservation.id, world.clock.now() + HOUR)
        await world.sleep(2)
        assert len(world.market_.extended) == 1
        await world.sleep(120)
        await is_booked_as_paid(world, hours=2)

    in_prepaid_world(story)


# -- lost answers


def test_a_lost_answer_to_an_executed_extension_is_recorded_once_and_nothing_is_bought_again():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = ["lost_executed"]
        await world.sleep(DUE + 300)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=2)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", CONFIRMED)]
        assert (await world.lease()).prepaid.extend_refusal == ""

    in_prepaid_world(story)


def test_a_lost_answer_to_an_extension_that_was_not_executed_sends_another_one_after_two_reads_a_minute_apart():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        reads: list[float] = []
        world.market_.on_extend = ["lost"]
        world.overhear.append(lambda request: _note_read(request, reads, world))
        await world.sleep(DUE + 300)
        first, second = world.market_.extended
        assert second - first >= timedelta(seconds=60)
        between = [at for at in reads if first.timestamp() < at <= second.timestamp()]
        assert between[-1] - between[0] >= 60
        await is_booked_as_paid(world, hours=2)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", REFUSED), ("extend", CONFIRMED)]

    in_prepaid_world(story)


def _note_read(request: HttpRequest, reads: list[float], world: PrepaidWorld) -> None:
    if request.method == "GET" and "/machines/1" in request.url:
        reads.append(world.clock.now().timestamp())


def test_while_reads_fail_no_second_extension_is_sent():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = ["lost"]
        await world.sleep(DUE - 10)
        world.market_.reads_fail = True
        await world.sleep(400)
        assert len(world.market_.extended) == 1
        world.market_.reads_fail = False
        await world.sleep(130)
        assert len(world.market_.extended) == 2

    in_prepaid_world(story)


def test_extensions_that_are_lost_again_and_again_never_overlap_and_the_last_one_saves_the_machine():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = ["lost", "lost", "lost", "lost_executed"]
        await world.sleep(DUE + 900)
        sent = world.market_.extended
        assert len(sent) == 4
        assert all(later - earlier >= timedelta(seconds=60) for earlier, later in pairwise(sent))
        await is_booked_as_paid(world, hours=2)

    in_prepaid_world(story)


def test_a_listing_that_lags_behind_an_extension_buys_nothing_twice():
    async def story(world: PrepaidWorld) -> None:
        world.market_.listing_lag = timedelta(minutes=9)
        await world.rent()
        await world.sleep(DUE + 1200)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=2)

    in_prepaid_world(story)


# -- crashes


async def _crashes(world: PrepaidWorld, *, sent: bool) -> None:
    """The process dies between the commit of an extension and its send, or between the send and its answer."""

    def die_after_the_commit() -> None:
        if _stored(world, "SELECT 1 FROM bookings WHERE kind = 'extend' AND state = 'sent'"):
            world.life.end()

    def die_at_the_market(request: HttpRequest) -> None:
        if request.url.endswith("/extend"):
            world.life.end()

    if sent:
        world.overhear.append(die_at_the_market)
    else:
        world.after_writes.append(die_after_the_commit)
    await world.sleep(DUE + 1)
    world.overhear.clear()
    world.after_writes.clear()
    assert world.life.dead
    assert len(world.market_.extended) == int(sent)
    await world.restart()


def test_a_crash_after_the_send_of_an_extension_buys_nothing_twice():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await _crashes(world, sent=True)
        await world.sleep(400)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=2)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", CONFIRMED)]

    in_prepaid_world(story)


def test_a_crash_before_the_send_of_an_extension_is_seen_by_two_reads_and_then_it_is_sent():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await _crashes(world, sent=False)
        await world.sleep(85)
        assert world.market_.extended == []
        await world.sleep(60)
        assert len(world.market_.extended) == 1
        await world.sleep(60)
        await is_booked_as_paid(world, hours=2)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", REFUSED), ("extend", CONFIRMED)]

    in_prepaid_world(story)


# -- refusals


def test_missing_funds_are_reported_with_the_coming_end_and_tried_again_until_somebody_pays():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = ["funds", "funds", "funds"]
        await world.sleep(DUE + 5)
        lease = await world.lease()
        assert "PROVIDER_FUNDS" in lease.prepaid.extend_refusal
        accounts = {(lease.provider, lease.account)}
        found = await world.db.read(lambda tx: findings(tx, accounts))
        assert {each.kind for each in found} == {"booking_ends", "paused"}
        assert any("2026-06-12 13:00Z" in each.text for each in found)
        await world.sleep(300)
        assert len(world.market_.extended) == 4
        assert (await world.lease()).prepaid.extend_refusal == ""
        assert await world.db.read(lambda tx: findings(tx, accounts)) == ()
        await is_booked_as_paid(world, hours=2)

    with capture_logs() as lines:
        in_prepaid_world(story)
    assert [line["event"] for line in lines].count("extension_refused") == 3
    assert [line["event"] for line in lines].count("booking_extended") == 1


def test_a_refusal_that_can_not_change_is_not_repeated_and_the_machine_ends_with_its_booking():
    async def story(world: PrepaidWorld) -> None:
        made = await world.rent()
        world.market_.on_extend = ["never"] * 9
        await world.sleep(3700)
        assert len(world.market_.extended) == 1
        lease = await world.lease()
        assert (lease.state, lease.reason) == (LeaseState.RELEASED, Reason.BOOKING_ENDED)
        assert (await world.view(made.reservation.id)).reservation.state == "released"
        assert await world.cost() == 500_000

    in_prepaid_world(story)


def test_a_machine_above_the_price_limit_is_not_extended():
    async def story(world: PrepaidWorld) -> None:
        await world.rent(max_price=0.26)
        world.market_.lists_prices = True
        world.market_.machine["usd_per_hour"] = 0.6
        await world.sleep(DUE + 60)
        assert world.market_.extended == []
        assert "price" in (await world.lease()).prepaid.extend_refusal

    in_prepaid_world(story)


def test_a_machine_whose_extension_cost_more_than_the_limit_is_not_extended_again():
    async def story(world: PrepaidWorld) -> None:
        await world.rent(max_price=0.26)
        world.market_.fee = 200_000
        await world.sleep(DUE + 1200)
        assert len(world.market_.extended) == 1
        assert (await world.lease()).observed.price == 700_000
        await world.sleep(2500)
        assert len(world.market_.extended) == 1
        assert "price" in (await world.lease()).prepaid.extend_refusal

    in_prepaid_world(story)


def test_on_a_full_disk_nothing_is_extended():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(DUE - 5)
        world.life.books_fail = True
        await world.sleep(60)
        assert world.market_.extended == []
        world.life.books_fail = False
        await world.sleep(60)
        assert len(world.market_.extended) == 1

    in_prepaid_world(story)


# -- what the marketplace really charged


def test_fees_that_only_a_read_shows_become_an_adjustment_after_two_reads():
    async def story(world: PrepaidWorld) -> None:
        world.market_.fee = 25_000
        await world.rent()
        await world.sleep(30)
        assert await world.cost() == 500_000
        await world.sleep(120)
        await is_booked_as_paid(world, hours=1)
        assert await world.cost() == 525_000
        told, total = await world.engine.spending.transactions(P1, 10, 0)
        assert [each.amount for each in told] == [25_000, 500_000]
        assert total == 2
        await world.sleep(DUE)
        await is_booked_as_paid(world, hours=2)

    in_prepaid_world(story)


def test_a_booking_that_somebody_made_longer_by_hand_is_taken_over_after_two_reads():
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(100)
        world.market_._extend(world.market_.machine["machine_id"], 2)
        await world.sleep(300)
        await is_booked_as_paid(world, hours=3)
        assert len(world.market_.extended) == 1

    in_prepaid_world(story)


def test_an_extension_is_committed_before_it_is_sent_and_a_lease_has_one_open_booking_at_most():
    async def story(world: PrepaidWorld) -> None:
        seen = []

        def look(request: HttpRequest) -> None:
            if request.url.endswith("/extend"):
                open_ = "state IN ('sent', 'unknown')"
                seen.append(_stored(world, f"SELECT kind, state, hours, paid_before FROM bookings WHERE {open_}"))  # noqa: S608

        world.overhear.append(look)
        await world.rent()
        world.market_.on_extend = ["lost"]
        await world.sleep(DUE + 300)
        assert seen == [[("extend", "sent", 1, 500_000)]] * 2
        lease = await world.lease()
        assert await world.db.read(lambda tx: bookings.open_of(tx, lease.id)) is None

    in_prepaid_world(story)
