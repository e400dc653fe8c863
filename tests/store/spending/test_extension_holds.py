"""What an extension holds while it is written to labels, when two of them meet, and when a limit changes meanwhile."""

import asyncio

import pytest

from gpuproxy.model.bookings import HOUR
from gpuproxy.model.errors import FailedPrecondition, Refusal, Unavailable
from gpuproxy.model.lease_events import Gone, Release
from gpuproxy.model.lease_facts import NewEnd
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationView
from gpuproxy.outcomes import spending
from gpuproxy.ports import Tx
from gpuproxy.store import leases, limits
from gpuproxy.store.rows import moment
from tests.prepaid import PrepaidWorld, in_prepaid_world
from tests.store.spending.test_admission import DOLLAR, P1, limit, put, tried, usage
from tests.world import World, in_world

LASTS = 3600.0


async def one(world: World) -> Lease:
    """A ready machine of vast.ai, which ends itself: its label carries its end."""
    made = await world.reserve(1, lease=LASTS)
    await world.sleep(60)
    return await now_of(world, made.leases[0])


async def now_of(world: World, lease: Lease) -> Lease:
    return await world.db.read(lambda tx: leases.get(tx, lease.id))


async def extended(world: World, lease: Lease, hours: float) -> ReservationView | Refusal:
    assert lease.expires_at is not None
    try:
        return await world.engine.reservations.extend(P1, lease.reservation_id, lease.expires_at + hours * HOUR)
    except Refusal as refusal:
        return refusal


async def slow(world: World) -> list[float]:
    """The seconds that each commit and each request takes from now on, as a list of one number that may change."""
    seconds = [0.0]
    world.delay = lambda: seconds[0]
    await world.restart()
    return seconds


async def held_to_the_end(world: World, lease: Lease) -> bool:
    """Whether exactly the time until the end of the lease is held."""
    now = await now_of(world, lease)
    hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
    return hold is not None and now.expires_at is not None and abs(moment(hold.until) - now.expires_at) < HOUR / 3600


@pytest.mark.parametrize("point", range(1, 5))
def test_a_crash_during_an_extension_leaves_nothing_held_beyond_the_end_that_counts(point: int) -> None:
    async def story(world: World) -> None:
        lease = await one(world)
        assert lease.expires_at is not None
        world.life.die_after(point)
        try:
            await world.engine.reservations.extend(P1, lease.reservation_id, lease.expires_at + 5 * HOUR)
        except BaseException as error:  # noqa: BLE001 - however the dead process says it
            assert not isinstance(error, AssertionError)
        await world.restart()
        await world.sleep(400)
        assert (await now_of(world, lease)).pending.new_end is None
        assert await held_to_the_end(world, lease)

    in_world(story)


@pytest.mark.parametrize(("first", "second"), [(5.0, 2.0), (2.0, 5.0), (3.0, 3.0)])
def test_two_extensions_at_once_hold_the_end_that_counts_afterwards(first: float, second: float) -> None:
    async def story(world: World) -> None:
        lease = await one(world)
        assert lease.expires_at is not None
        answers = await asyncio.gather(*(extended(world, lease, hours) for hours in (first, second)))
        assert {type(each) for each in answers} <= {ReservationView, Unavailable}
        ends = {each.reservation.expires_at for each in answers if isinstance(each, ReservationView)}
        counts = (await now_of(world, lease)).expires_at
        assert ends <= {counts}, "who was told an end has it"
        await world.sleep(400)
        assert await held_to_the_end(world, lease)
        assert isinstance(await extended(world, lease, 6.0), ReservationView)
        assert await held_to_the_end(world, lease)

    in_world(story)


@pytest.mark.parametrize("seconds", [0.6, 5.0])
def test_an_extension_whose_label_is_written_when_the_lease_ends_keeps_no_machine_and_no_money(seconds: float) -> None:
    async def story(world: World) -> None:
        lease = await one(world)
        assert lease.expires_at is not None
        wait = await slow(world)
        await world.sleep((lease.expires_at - world.clock.now()).total_seconds() - 2)
        asked = asyncio.create_task(extended(world, lease, 5.0))
        await world.sleep(0)
        wait[0] = seconds
        answer = await asked
        wait[0] = 0.0
        assert isinstance(answer, Refusal)
        assert isinstance(answer, FailedPrecondition if seconds < 1 else Unavailable)
        again = await extended(world, lease, 5.0)
        assert isinstance(again, FailedPrecondition)
        assert again.reason is Reason.RESERVATION_OVER
        await world.sleep(120)
        assert world.alive() == {}
        assert (await usage(world)).held == 0
        await world.books_agree()

    in_world(story)


def test_an_extension_that_is_under_way_keeps_its_money_when_the_limit_is_lowered_and_the_next_one_is_refused() -> None:
    async def story(world: World) -> None:
        lease = await one(world)
        price = lease.observed.price
        await put(world, limit(4 * price / DOLLAR))
        wait = await slow(world)
        wait[0] = 1.0
        longer = asyncio.create_task(extended(world, lease, 2.0))
        await world.sleep(2.5)
        assert (await now_of(world, lease)).pending.new_end is not None, "it is being written to the label"
        wait[0] = 0.0
        await put(world, limit(1.5 * price / DOLLAR))
        assert isinstance(await longer, ReservationView), "it was admitted under the limit of its time"
        assert await held_to_the_end(world, lease)
        assert isinstance(await extended(world, lease, 2.1), BudgetExceeded)
        assert isinstance(await tried(world, lease=60.0), BudgetExceeded)
        assert isinstance(await extended(world, lease, 2.0), ReservationView), "a repeat asks for nothing more"

    in_world(story)


def test_an_extension_after_the_limit_was_lowered_is_refused_and_writes_no_label() -> None:
    async def story(world: World) -> None:
        lease = await one(world)
        price = lease.observed.price
        await put(world, limit(4 * price / DOLLAR))
        written = world.calls("label")
        await put(world, limit(2.5 * price / DOLLAR))
        assert isinstance(await extended(world, lease, 2.0), BudgetExceeded)
        assert world.calls("label") == written
        assert await held_to_the_end(world, lease)

    in_world(story)


@pytest.mark.parametrize(("hours", "fits"), [(2.6, False), (3.01, True)])
def test_a_machine_that_is_paid_in_advance_is_extended_only_if_all_its_hours_can_be_bought(
    hours: float, fits: bool
) -> None:
    """2.5 hours are three bookings. A machine whose third one is refused would end before the end that was promised."""

    async def story(world: PrepaidWorld) -> None:
        await world.rent(lease=LASTS)
        lease = await world.lease()
        assert lease.expires_at is not None
        await put(world, limit(hours * lease.observed.price / DOLLAR))
        answer = await extended(world, lease, 1.5)
        if not fits:
            assert isinstance(answer, BudgetExceeded)
            return
        assert isinstance(answer, ReservationView)
        await world.sleep(2.4 * 3600)
        assert len(world.market_.rented) == 1, "it is there to its end"
        assert world.market_.machine["paid"] == 3 * lease.observed.price

    in_prepaid_world(story)


def test_an_extension_that_is_not_written_frees_the_money_of_the_machines_without_a_label_too() -> None:
    async def story(world: World) -> None:
        world.arm("create", "late_effect", seconds=250)
        made = await world.reserve(2, packing="spread", lease=LASTS, keep_late=True, seconds=60)
        (late,) = [each for each in made.leases if each.state is LeaseState.UNKNOWN]
        lease = next(each for each in await world.live() if each.instance_id is not None)
        assert late.reservation_id == lease.reservation_id
        world.arm("label", "status_before", times=1)
        assert isinstance(await extended(world, lease, 5.0), Unavailable)
        assert await held_to_the_end(world, late)
        assert await held_to_the_end(world, lease)

    in_world(story)


@pytest.mark.parametrize("period", ["30m", "24h", "month"])
def test_a_machine_that_is_paid_in_advance_runs_to_its_end_although_the_limit_was_lowered_below_it(period: str) -> None:
    """Its hours were admitted when its end was agreed. To buy them asks for nothing more."""

    async def story(world: PrepaidWorld) -> None:
        await world.rent(lease=1.2 * LASTS)
        lease = await world.lease()
        await put(world, limit(0.000001, period))
        await world.sleep(1.15 * LASTS)
        assert len(world.market_.rented) == 1
        assert world.market_.machine["paid"] == 2 * lease.observed.price
        assert isinstance(await extended(world, lease, 2.0), BudgetExceeded)

    in_prepaid_world(story)


def test_an_end_that_was_being_written_for_a_machine_that_is_gone_keeps_no_money_of_the_others() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(2, packing="spread", lease=LASTS)
        await world.sleep(60)
        gone, other = [await now_of(world, each) for each in made.leases]
        assert gone.expires_at is not None
        end = gone.expires_at + 5 * HOUR

        def ends(tx: Tx) -> None:
            spending.admit_longer(tx, [other], end)
            lease = leases.note(tx, gone, NewEnd(end, tx.now()))
            leases.advance(tx, leases.advance(tx, lease, Release(Reason.RELEASED, tx.now())), Gone())
            spending.ends_stand(tx, leases.of_reservation(tx, gone.reservation_id))

        await world.db.write(ends)
        assert await held_to_the_end(world, other)

    in_world(story)


@pytest.mark.parametrize(("hours", "held"), [(5, 2), (0, 2)])
def test_an_extension_that_is_given_up_frees_what_no_booking_of_a_prepaid_machine_needs(hours: int, held: int) -> None:
    """An end after 1.5 hours needs two bookings of an hour."""

    async def story(world: PrepaidWorld) -> None:
        await world.rent(lease=1.5 * LASTS)
        lease = await world.lease()
        assert lease.expires_at is not None
        assert lease.prepaid.booked_until is not None
        end = lease.expires_at + hours * HOUR
        await world.db.write(lambda tx: spending.admit_longer(tx, [lease], end))
        await world.db.write(lambda tx: spending.ends_stand(tx, [lease]))
        hold = await world.db.read(lambda tx: limits.hold_of(tx, lease.id))
        assert hold is not None
        assert moment(hold.until) - lease.prepaid.booked_until == (held - 1) * HOUR

    in_prepaid_world(story)
