"""A reservation is admitted against every limit, in the transaction of its intent."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition, Refusal, Unavailable
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import BudgetExceeded, Policy, Scope, SpendingLimit, Usage, window
from gpuproxy.model.money import Micro
from gpuproxy.model.reasons import Reason
from gpuproxy.model.reservations import ReservationView
from gpuproxy.store import limits, spend_limits
from tests.world import World, in_world

DOLLAR = 1_000_000
P1 = Caller(project="p1")
HOUR = 3600.0


def limit(
    usd: float, period: str = "24h", *, scope: Scope = "project", subject: str = "p1", policy: Policy = "release_newest"
) -> SpendingLimit:
    return SpendingLimit(
        scope=scope, subject="" if scope == "global" else subject, window=window(period),
        amount=Micro(round(usd * DOLLAR)), policy=policy,
    )  # fmt: skip


async def put(world: World, *wanted: SpendingLimit) -> None:
    for each in wanted:
        await world.db.write(lambda tx, each=each: spend_limits.put(tx, each))  # type: ignore[misc]


async def usage(world: World, of: SpendingLimit | None = None) -> Usage:
    return (await world.db.read(lambda tx: limits.usages(tx, [of or limit(1)])))[0]


async def tried(world: World, count: int = 1, **wanted: Any) -> ReservationView | FailedPrecondition:
    try:
        return await world.reserve(count, **wanted)
    except FailedPrecondition as refusal:
        return refusal


async def cheapest(world: World) -> int:
    """The price of what is rented first, in micro-dollars per hour."""
    choice = (await world.reserve(1, project="p2", dry_run=True)).reservation.decision  # without a limit
    assert choice is not None
    return choice.picks[0].price


async def release(world: World, made: ReservationView) -> None:
    await world.engine.reservations.release(P1, made.reservation.id)
    await world.sleep(120)


def test_fifty_concurrent_reservations_against_a_budget_for_ten():
    async def story(world: World) -> None:
        price = await cheapest(world)
        budget = 10 * price
        await put(world, limit(budget / DOLLAR))
        answers = await asyncio.gather(*(tried(world, lease=HOUR) for _ in range(50)))
        rented = [each for each in answers if isinstance(each, ReservationView)]
        refused = [each for each in answers if isinstance(each, BudgetExceeded)]
        assert len(rented) + len(refused) == 50
        paid = sum(lease.observed.price for each in rented for lease in each.kept)
        dearest = max(lease.observed.price for each in rented for lease in each.kept)
        assert paid <= budget
        assert budget - paid < 2 * dearest, "what fits is rented"
        assert len(world.alive()) == len(rented)
        assert {each.reason for each in refused} == {Reason.BUDGET_EXCEEDED}
        assert {(each.metadata["window"], each.metadata["scope"]) for each in refused} == {("24h", "project")}
        assert len(await world.leases()) == len(rented), "a refused reservation stores nothing"
        for each in rented:
            await world.engine.reservations.release(P1, each.reservation.id)
        await world.sleep(120)
        assert (await usage(world)).held == 0
        await world.books_agree()

    in_world(story)


def test_the_refusal_names_the_limit_and_what_is_spent_held_and_asked():
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=HOUR)
        price = made.leases[0].observed.price
        await put(world, limit(1.5 * price / DOLLAR))
        refused = await tried(world, lease=HOUR)
        assert isinstance(refused, BudgetExceeded)
        assert refused.reason == Reason.BUDGET_EXCEEDED
        assert set(refused.metadata) == {"window", "scope", "subject", "limit", "spent", "held", "asked"}
        assert float(refused.metadata["held"]) == pytest.approx(price / DOLLAR, rel=0.01)
        assert "in 24h for project p1" in refused.message
        assert "Nothing was rented" in refused.message

    in_world(story)


@pytest.mark.parametrize(("scope", "project", "fits"), [("project", "p2", True), ("global", "p2", False)])
def test_a_limit_counts_what_its_scope_covers(scope: Scope, project: str, fits: bool):
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=HOUR)
        await put(world, limit(1.2 * made.leases[0].observed.price / DOLLAR, scope=scope))
        assert isinstance(await tried(world, project=project, lease=HOUR), ReservationView) is fits

    in_world(story)


def test_a_limit_of_a_key_counts_only_what_was_rented_with_it():
    async def story(world: World) -> None:
        price = await cheapest(world)
        await put(world, limit(1.5 * price / DOLLAR, scope="key", subject="key-1"))

        async def with_key(key_id: str) -> bool:
            caller = Caller(project="p1", key_id=key_id, deadline=world.clock.monotonic() + 120)
            from tests.world import demand

            try:
                await world.engine.reserver.reserve(caller, demand(1, lease=HOUR))
            except BudgetExceeded as refusal:
                assert refusal.metadata["subject"] == "key-1"
                return False
            return True

        assert [await with_key(each) for each in ("key-1", "key-2", "", "key-1")] == [True, True, True, False]

    in_world(story)


@pytest.mark.parametrize(
    ("lease", "period", "hours"),
    [
        (HOUR, "24h", 1.0),
        (10 * HOUR, "24h", 10.0),
        (100 * HOUR, "24h", 24.0),
        (10 * HOUR, "1h", 1.0),
        (None, "24h", 1.0),
    ],
)
def test_a_hold_is_the_price_times_the_shorter_of_lease_and_window(lease: float | None, period: str, hours: float):
    async def story(world: World) -> None:
        made = await world.reserve(1, **({} if lease is None else {"lease": lease}))
        found = await usage(world, limit(1000, period))
        assert found.spent + found.held == pytest.approx(made.leases[0].observed.price * hours, rel=0.01)

    in_world(story)


def test_a_hold_is_never_shrunk_to_fit():
    """Known overspend: the hold is capped to what is left, and the machine costs more than that."""

    async def story(world: World) -> None:
        price = await cheapest(world)
        await put(world, limit(23.5 * price / DOLLAR))
        assert isinstance(await tried(world, lease=48 * HOUR), BudgetExceeded)
        assert world.created() == 0
        assert isinstance(await tried(world, lease=20 * HOUR), ReservationView)

    in_world(story)


def test_holds_of_what_was_never_rented_do_not_fill_the_budget():
    """Known mistake: worst-case holds of failed creates fill the budget while nothing was spent."""

    async def story(world: World) -> None:
        price = await cheapest(world)
        await put(world, limit(30 * price / DOLLAR))
        world.arm("create", "offer_gone", times=0)
        for _ in range(2):
            with pytest.raises(Refusal):
                await world.reserve(1, lease=HOUR)
        found = await usage(world)
        assert (found.spent, found.held) == (0, 0)
        assert not await world.engine.money.limits.check(P1, Micro(29 * price))

    in_world(story)


def test_an_unknown_outcome_keeps_its_hold_until_it_is_proven_absent():
    async def story(world: World) -> None:
        price = await cheapest(world)
        await put(world, limit(1.5 * price / DOLLAR))
        world.arm("create", "hang_before", seconds=1)
        made = await world.reserve(1, lease=HOUR, keep_late=True, seconds=60)
        assert [each.state for each in made.leases] == [LeaseState.UNKNOWN]
        assert (await usage(world)).held >= price * 0.9
        assert isinstance(await tried(world, lease=HOUR), BudgetExceeded)
        await world.sleep(1200)
        assert (await usage(world)).held == 0
        assert isinstance(await tried(world, lease=HOUR), ReservationView)

    in_world(story)


def test_a_release_frees_the_hold_only_when_the_machine_is_proven_gone():
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=10 * HOUR)
        price = made.leases[0].observed.price
        world.arm("destroy", "destroy_ignored", times=0)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(60)
        assert (await usage(world)).held >= 9 * price
        world.control("DELETE", "faults")
        await world.sleep(300)
        assert (await usage(world)).held == 0

    in_world(story)


def test_nothing_is_rented_while_the_database_can_not_be_written():
    """Known overspend: a limit that can't be read counts as none."""

    async def story(world: World) -> None:
        await put(world, limit(1000))

        async def down(_unit: object) -> None:
            raise Unavailable("The database is down.")

        world.engine.reserver._db.write = down  # type: ignore[method-assign,assignment]
        with pytest.raises(Unavailable):
            await world.reserve(1, lease=HOUR)
        assert world.created() == 0

    in_world(story)


def test_what_has_no_price_is_refused_while_a_limit_applies():
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=HOUR)
        await put(world, limit(1000))

        def unpriced(tx: Any) -> None:
            hold = limits.hold_of(tx, made.leases[0].id)
            assert hold is not None
            from dataclasses import replace

            limits.admit(tx, [replace(hold, rate=0, until=hold.until + 1)])

        with pytest.raises(FailedPrecondition, match="no price") as caught:
            await world.db.write(unpriced)
        assert caught.value.reason == Reason.BUDGET_EXCEEDED

    in_world(story)


def test_a_budget_of_each_month_is_checked_for_every_month_of_a_lease():
    async def story(world: World) -> None:
        price = await cheapest(world)
        ends = (world.clock.now().replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
        left = (ends.replace(microsecond=0) - world.clock.now()).total_seconds()
        await put(world, limit(price * (left / HOUR + 1) / DOLLAR, "month"))
        assert isinstance(await tried(world, lease=left * 2.5 + 30 * 24 * HOUR), BudgetExceeded)
        assert isinstance(await tried(world, lease=left), ReservationView)

    in_world(story)


def test_a_warning_refuses_nothing():
    async def story(world: World) -> None:
        await put(world, limit(0.000001, policy="warn"))
        assert isinstance(await tried(world, lease=HOUR), ReservationView)

    in_world(story)


def test_an_extension_over_the_limit_is_refused_and_the_old_end_stands():
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=HOUR)
        price = made.leases[0].observed.price
        await put(world, limit(3 * price / DOLLAR))
        ends = made.reservation.expires_at
        assert ends is not None
        with pytest.raises(BudgetExceeded):
            await world.engine.reservations.extend(P1, made.reservation.id, ends + timedelta(hours=5))
        assert (await world.view(made.reservation.id)).reservation.expires_at == ends
        longer = await world.engine.reservations.extend(P1, made.reservation.id, ends + timedelta(hours=1))
        assert longer.reservation.expires_at == ends + timedelta(hours=1)
        found = await usage(world)
        assert found.spent + found.held == pytest.approx(2 * price, rel=0.01)

    in_world(story)


def test_a_price_that_rises_raises_the_hold_or_releases_the_machine():
    async def story(world: World) -> None:
        await world.reserve(1, lease=HOUR)
        (lease,) = await world.live()
        price = lease.observed.price
        await put(world, limit(1.05 * price / DOLLAR))

        async def shown(factor: float) -> LeaseState:
            from gpuproxy.model.lease_facts import Shown
            from gpuproxy.model.leases import SshAddress
            from gpuproxy.reconcile.steps import Note
            from gpuproxy.reconcile.writing import write

            fact = Shown(
                at=world.clock.now(), price=Micro(round(price * factor)), disk_price=None, billed="all",
                status_message=None, ssh=SshAddress("", 0), ports=(), contract_ends_at=None, too_soon=False,
            )  # fmt: skip
            await world.db.write(lambda tx: write(tx, Note(lease, fact)))
            return (await world.leases())[0].state

        assert await shown(1.02) is not LeaseState.RELEASING
        found = await usage(world)
        assert found.spent + found.held == pytest.approx(1.02 * price, rel=0.01)
        assert await shown(1.5) is LeaseState.RELEASING
        assert (await world.leases())[0].reason is Reason.BUDGET_EXCEEDED

    in_world(story)


def test_the_database_refuses_a_hold_over_the_limit_by_itself():
    """The second line: `admit` is passed over."""

    async def story(world: World) -> None:
        from dataclasses import replace

        from gpuproxy.model.errors import StatementRefused

        made = await world.reserve(1, lease=HOUR)
        await put(world, limit(2 * made.leases[0].observed.price / DOLLAR))

        def past_the_door(tx: Any, hours: int, *, fresh: bool) -> None:
            hold = limits.hold_of(tx, made.leases[0].id)
            assert hold is not None
            wanted = replace(hold, until=hold.until + hours * 3_600_000_000)
            if fresh:
                limits.refusing(tx, [wanted])  # it reads what is spent, and its answer is not heeded
            limits._save(tx, wanted)

        with pytest.raises(StatementRefused):
            await world.db.write(lambda tx: past_the_door(tx, 20, fresh=True))
        with pytest.raises(StatementRefused):  # what is spent was read in another unit of work
            await world.db.write(lambda tx: past_the_door(tx, 0 + 1, fresh=False))
        before = (await usage(world)).held
        assert before <= 1.01 * made.leases[0].observed.price
        await world.db.write(lambda tx: past_the_door(tx, 1 - 1, fresh=True))

    in_world(story)
