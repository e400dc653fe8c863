"""A machine that has run for longer than a sliding window: what it goes on to cost still counts against the limit."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded, Hold, Holds, Policy, exceeded
from gpuproxy.runtime.accounts import Accounts
from gpuproxy.store import limits
from gpuproxy.store.rows import micros
from tests.store.spending.test_admission import DOLLAR, limit, put, usage
from tests.world import World, in_world

HORIZON = 1800.0
P1 = Caller(project="p1")
S = LeaseState


def story_of(story: Any) -> None:
    in_world(story, settings={"hold_horizon": HORIZON})


async def running(world: World, hours: float, count: int = 1) -> list[Lease]:
    """Machines without an end, oldest first, that have run for so many hours."""
    made = []
    for _ in range(count):
        made += (await world.reserve(1)).leases
        await world.sleep(60)
    await world.sleep(hours * 3600)
    return made


async def put_hourly(world: World, share: float, policy: Policy) -> None:
    """Set a limit of this share of what all machines cost in an hour."""
    price = sum(lease.observed.price for lease in await world.live())
    await put(world, limit(share * price / DOLLAR, "1h", policy=policy))


async def states(world: World, of: list[Lease]) -> list[LeaseState]:
    now = {lease.id: lease.state for lease in await world.leases()}
    return [now[lease.id] for lease in of]


@pytest.mark.parametrize(
    ("policy", "becomes"),
    [("release_newest", S.RELEASED), ("stop_newest", S.PARKED), ("no_new", S.ACTIVE), ("warn", S.ACTIVE)],
)
def test_a_limit_that_is_set_below_what_a_machine_costs_in_a_window_applies_its_policy(
    policy: Policy, becomes: LeaseState
) -> None:
    async def story(world: World) -> None:
        made = await running(world, 3)
        await put_hourly(world, 0.5, policy)
        await world.sleep(HORIZON)
        assert await states(world, made) == [becomes]

    story_of(story)


def test_a_machine_whose_price_fits_the_limit_runs_on_for_many_windows() -> None:
    async def story(world: World) -> None:
        made = await running(world, 0.02)
        await put_hourly(world, 1.0, "release_newest")
        await world.sleep(6 * 3600)
        assert await states(world, made) == [S.ACTIVE]

    story_of(story)


@pytest.mark.parametrize(("too_much", "refused"), [(0, False), (1, False), (2, True)])
def test_a_micro_dollar_of_rounding_refuses_nothing_to_what_fits_exactly(too_much: int, refused: bool) -> None:
    """The database cuts the hour at the begin of the window, and rounds both parts."""
    hour, now = 3_600_000_000, 10**15
    before = Hold(
        lease_id="l", project="p1", key_id="", gpus=1, rate=DOLLAR, peak=DOLLAR, since=now - 30 * hour, until=now
    )
    holds = Holds(others=[], before=[before], after=[replace(before, until=now + hour)], prolongs=True)
    fits = limit(24.0, "24h", policy="release_newest")
    over = exceeded(
        fits, fits.window.span(now), now, holds=holds, past=lambda _lease, _since: 24 * DOLLAR,
        spent=lambda since: (now - since) * DOLLAR // hour + too_much,
    )  # fmt: skip
    assert (over is not None) is refused


def test_the_newest_machine_ends_if_the_others_fit_the_limit_then() -> None:
    async def story(world: World) -> None:
        made = await running(world, 3, count=2)
        await put_hourly(world, 0.75, "release_newest")
        await world.sleep(3 * HORIZON)
        assert await states(world, made) == [S.ACTIVE, S.RELEASED]

    story_of(story)


def test_what_was_spent_while_the_server_was_down_counts_when_it_is_back() -> None:
    async def story(world: World) -> None:
        (lease,) = await running(world, 0.1)
        await put(world, limit(1.5 * lease.observed.price / DOLLAR, "2h", policy="release_newest"))
        await world.kill()
        await world.sleep(5 * 3600)
        await world.start()
        await world.sleep(HORIZON)
        assert await states(world, [lease]) == [S.RELEASED]

    story_of(story)


def test_a_lease_with_an_end_is_not_extended_beyond_a_limit_that_was_lowered() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=20 * 3600)
        await world.sleep(3 * 3600)
        await put_hourly(world, 0.5, "release_newest")
        end = world.clock.now() + timedelta(days=80)
        before = await usage(world)
        with pytest.raises(BudgetExceeded, match="spending limit"):
            await world.engine.reservations.extend(P1, made.reservation.id, end)
        assert await states(world, list(made.leases)) == [S.ACTIVE]
        hold = await world.db.read(lambda tx: limits.hold_of(tx, made.leases[0].id))
        assert hold is not None
        assert hold.until == micros(made.leases[0].expires_at or end)
        assert await usage(world) == before

    story_of(story)


@pytest.mark.parametrize("ends_by", ["release", "its end", "a stop at its end"])
def test_a_machine_that_the_marketplace_does_not_end_is_held_for_as_long_as_it_may_cost_money(ends_by: str) -> None:
    async def story(world: World) -> None:
        grace = timedelta(days=1) if ends_by == "a stop at its end" else timedelta(0)
        wanted = {} if ends_by == "release" else {"lease": 3600.0, "lease_grace": grace}
        made = await world.reserve(1, **wanted)
        await world.sleep(1800)
        for call in ("destroy", "stop"):
            world.arm(call, "status_500_before", times=0)
        if ends_by == "release":
            await world.engine.reservations.release(P1, made.reservation.id)
        price = made.leases[0].observed.price
        for _ in range(8):
            await world.sleep(1200)
            found = await usage(world, limit(1, "24h"))
            hold = await world.db.read(lambda tx: limits.hold_of(tx, made.leases[0].id))
            assert hold is not None
            assert hold.until > micros(world.clock.now())
            assert grace or found.held <= price / 2, "it is to end soon"

    story_of(story)


def test_a_machine_that_is_gone_is_not_held() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1)
        await world.sleep(1800)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.sleep(HORIZON)
        assert (await usage(world, limit(1, "24h"))).held == 0

    story_of(story)


def test_a_limit_also_ends_machines_of_an_account_that_only_another_server_has() -> None:
    async def story(world: World) -> None:
        made = await running(world, 3)
        await put_hourly(world, 0.5, "stop_newest")
        world.engine.money.horizons._accounts = Accounts((), world.clock)
        await world.sleep(HORIZON)
        assert await states(world, made) == [S.PARKED]

    story_of(story)
