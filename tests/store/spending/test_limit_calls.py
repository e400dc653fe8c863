"""SetSpendingLimit, ListSpendingLimits, GetSpendingInfo and CheckSpendingLimit, also as a hostile user calls them."""

import math

import pytest

from gpuproxy.edge.rpc.limits import LimitCalls
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.reservations import ReservationView
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.store.spending.test_admission import DOLLAR, HOUR, P1, tried
from tests.world import World, in_world

ADMIN = Caller(project="ops", role="admin")


def calls_of(world: World) -> LimitCalls:
    return LimitCalls(world.engine.money.limits)


async def set_to(world: World, **wanted: object) -> pb.SpendingLimit:
    request = pb.SetSpendingLimitRequest(**wanted)  # type: ignore[arg-type]
    return (await calls_of(world).SetSpendingLimit(request, ADMIN)).limit


@pytest.mark.parametrize("amount", [-1.0, -1e-9, math.nan, math.inf, -math.inf, 1e300, 1.01e9, 1e-9, 4.9e-7, 5e-324])
def test_an_amount_that_is_no_limit_is_refused_and_changes_nothing(amount: float) -> None:
    async def story(world: World) -> None:
        await set_to(world, window="24h", limit=5.0)
        with pytest.raises(InvalidArgument):
            await set_to(world, window="24h", limit=amount)
        listed = (await calls_of(world).ListSpendingLimits(pb.ListSpendingLimitsRequest(), ADMIN)).limits
        assert [each.limit for each in listed] == [5.0]

    in_world(story)


@pytest.mark.parametrize("amount", [-1.0, math.nan, math.inf, 1e300])
def test_a_check_of_an_impossible_amount_is_refused(amount: float) -> None:
    async def story(world: World) -> None:
        with pytest.raises(InvalidArgument):
            await calls_of(world).CheckSpendingLimit(pb.CheckSpendingLimitRequest(amount=amount), P1)

    in_world(story)


@pytest.mark.parametrize("window", ["", "0h", "4m", "91d", "2161h", "-1h", "1.5h", "1e3h", "9999999999h", "year"])
def test_a_period_that_is_no_window_is_refused(window: str) -> None:
    async def story(world: World) -> None:
        with pytest.raises(InvalidArgument, match="window"):
            await set_to(world, window=window, limit=1.0)

    in_world(story)


@pytest.mark.parametrize("window", ["5m", "90d", "2160h", " 1H ", "MONTH", "60min"])
def test_the_shortest_and_the_longest_window_are_allowed(window: str) -> None:
    async def story(world: World) -> None:
        assert (await set_to(world, window=window, limit=1.0)).limit == 1.0

    in_world(story)


def test_a_limit_of_0_removes_it_and_one_of_an_unknown_key_is_not_found() -> None:
    async def story(world: World) -> None:
        assert (await set_to(world, window="1h", limit=3.0, project="p1", policy="no_new")).policy == "no_new"
        await set_to(world, window="1h", limit=0.0, project="p1")
        assert not (await calls_of(world).ListSpendingLimits(pb.ListSpendingLimitsRequest(), P1)).limits
        with pytest.raises(NotFound):
            await set_to(world, window="1h", limit=3.0, key_id="key-of-nobody")

    in_world(story)


def test_a_limit_below_what_is_held_refuses_new_rentals_and_ends_nothing_that_has_an_end() -> None:
    async def story(world: World) -> None:
        made = await world.reserve(1, lease=HOUR)
        price = made.leases[0].observed.price
        await set_to(world, window="24h", limit=0.1 * price / DOLLAR, project="p1", policy="release_newest")
        assert isinstance(await tried(world, lease=HOUR), BudgetExceeded)
        [shown] = [
            each
            for each in (await calls_of(world).GetSpendingInfo(pb.GetSpendingInfoRequest(), P1)).windows
            if each.limit
        ]
        assert (shown.exceeded, shown.remaining) == (True, 0.0)
        await world.sleep(600)
        assert [lease.state for lease in await world.live()] == [LeaseState.ACTIVE]
        await set_to(world, window="24h", limit=10.0 * price / DOLLAR, project="p1")
        assert isinstance(await tried(world, lease=HOUR), ReservationView)

    in_world(story)
