"""Extensions that are bought once, whatever late answers, refusals and single reads say."""

from datetime import timedelta

import pytest

from gpuproxy.outcomes import extensions
from tests.prepaid import PrepaidWorld, in_prepaid_world
from tests.reconcile.test_extending import CONFIRMED, DUE, REFUSED, booking_states, is_booked_as_paid

pytestmark = pytest.mark.long


def test_an_extension_that_is_sent_late_is_not_sent_again_meanwhile() -> None:
    """Reads show nothing of it as long as it waits for its turn."""

    async def story(world: PrepaidWorld) -> None:
        world.market_.extend_wait = 200.0
        await world.rent()
        await world.sleep(DUE + 400)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=2)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", CONFIRMED)]

    in_prepaid_world(story)


@pytest.mark.parametrize("corrected", [False, True])
def test_an_accepted_extension_counts_once_although_reads_have_decided_against_it(*, corrected: bool) -> None:
    """The process that sent it lost the account, and its answer came late."""

    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = ["lost", "never"]
        await world.sleep(DUE + 200)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", REFUSED), ("extend", REFUSED)]
        refused = (await world.bookings())[1]
        world.market_._extend(world.market_.machine["machine_id"], 1)
        await world.sleep(300 if corrected else 0)
        await world.db.write(lambda tx: extensions.bought(tx, refused))
        assert (await booking_states(world))[1] == ("extend", REFUSED if corrected else CONFIRMED)
        await is_booked_as_paid(world, hours=2)
        await world.sleep(150)
        await is_booked_as_paid(world, hours=2)

    in_prepaid_world(story)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("refusal", ["busy", "never", "funds"])
def test_an_extension_that_was_refused_and_executed_is_found_and_not_sent_again(refusal: str, *, hidden: bool) -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(300)
        world.market_.hidden = hidden
        world.market_.on_extend = [f"{refusal}_executed"]
        await world.sleep(DUE)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=2)
        assert (await world.lease()).prepaid.extend_refusal == ""
        await world.sleep(3600)
        assert len(world.market_.extended) == 2, "the next one is due an hour later"

    in_prepaid_world(story)


def test_after_a_refusal_the_machine_is_read_before_the_extension_is_sent_again() -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = ["busy"]
        await world.sleep(DUE - 10)
        world.market_.reads_fail = True
        await world.sleep(120)
        assert len(world.market_.extended) == 1
        world.market_.reads_fail = False
        await world.sleep(20)
        assert len(world.market_.extended) == 2
        await world.sleep(20)
        await is_booked_as_paid(world, hours=2)

    in_prepaid_world(story)


@pytest.mark.parametrize(("answer", "paid_lags"), [("ok", True), ("ok", False), ("lost_executed", False)])
def test_an_extension_that_reads_do_not_show_yet_is_not_sent_again(answer: str, *, paid_lags: bool) -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        world.market_.on_extend = [answer]
        world.market_.read_lag, world.market_.paid_lags = timedelta(minutes=7), paid_lags
        await world.sleep(DUE + 15 * 60)
        assert len(world.market_.extended) == 1
        await is_booked_as_paid(world, hours=2)
        assert await booking_states(world) == [("create", CONFIRMED), ("extend", CONFIRMED)]

    in_prepaid_world(story)


def test_a_booking_that_is_shorter_than_recorded_is_corrected_if_no_extension_was_confirmed_just_now() -> None:
    async def story(world: PrepaidWorld) -> None:
        await world.rent()
        await world.sleep(DUE + 20 * 60)
        world.market_.machine["until"] -= 1800
        await world.sleep(300)
        until = (await world.lease()).prepaid.booked_until
        assert until is not None
        assert abs(until.timestamp() - world.market_.machine["until"]) < 180

    in_prepaid_world(story)
