"""SetSpendingLimit, ListSpendingLimits, GetSpendingInfo and CheckSpendingLimit, also as a hostile user calls them."""

import math

import pytest

from gpuproxy.edge.rpc.limits import LimitCalls
from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import InvalidArgument, NotFound
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.limits import BudgetExceeded, Scope, SpendingLimit, window
from gpuproxy.model.money import Micro
from gpuproxy.model.reservations import ReservationView
from gpuproxy.ports import Tx
from gpuproxy.store import spend_limits
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


@pytest.mark.parametrize(
    "window", ["", "0h", "4m", "91d", "2161h", "-1h", "1.5h", "1e3h", "9999999999h", "year", "\uff12\uff14h"]
)
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


async def listed(world: World) -> list[tuple[str, str, float]]:
    answer = await calls_of(world).ListSpendingLimits(pb.ListSpendingLimitsRequest(), ADMIN)
    return [(each.window, each.project, each.limit) for each in answer.limits]


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (("24h", "1d", "1440m", "1440min", "024h"), "24h"),
        (("60m", "1h"), "1h"),
        (("90m", "90min"), "90m"),
        (("48h", "2d", "2880m"), "48h"),
        (("96h", "4d"), "4d"),
        (("100h", "6000m"), "100h"),
        (("720h", "30d"), "30d"),
    ],
)
def test_a_window_of_one_length_is_one_limit_however_it_is_written(texts: tuple[str, ...], name: str) -> None:
    async def story(world: World) -> None:
        for amount, text in enumerate(texts, start=1):
            assert (await set_to(world, window=text, limit=amount)).window == name
            assert await listed(world) == [(name, "", amount)]
        for text in texts:
            await set_to(world, window=text, limit=0.0)
            assert await listed(world) == []
            await set_to(world, window=text, limit=1.0)

    in_world(story)


def test_limits_that_were_stored_under_other_names_are_found_by_their_length() -> None:
    async def story(world: World) -> None:
        def store(tx: Tx) -> None:
            for amount, text in enumerate(("24h", "1d", "1440m"), start=1):
                for project in ("", "p1"):
                    scope: Scope = "project" if project else "global"
                    spend_limits.put(tx, SpendingLimit(
                        scope=scope, subject=project, window=window(text), amount=Micro(amount), policy="warn",
                    ))  # fmt: skip

        await world.db.write(store)
        assert len(await listed(world)) == 6
        await set_to(world, window="1d", limit=5.0)
        assert [each for each in await listed(world) if not each[1]] == [("24h", "", 5.0)]
        await set_to(world, window="24h", limit=0.0, project="p1")
        assert await listed(world) == [("24h", "", 5.0)]

    in_world(story)


def test_a_limit_of_the_settings_keeps_its_name_and_is_not_removed_by_a_call() -> None:
    async def story(world: World) -> None:
        setting = SpendingLimit(
            scope="global", subject="", window=window("1440MIN"), amount=Micro(DOLLAR), policy="warn",
            source="setting", name="GUARDRAILS_MAX_1440MIN_RATE",
        )  # fmt: skip
        await world.db.write(lambda tx: spend_limits.use_settings(tx, [setting], []))
        await set_to(world, window="24h", limit=2.0)
        assert await listed(world) == [("24h", "", 2.0), ("1440min", "", 1.0)]
        await set_to(world, window="1d", limit=0.0)
        assert await listed(world) == [("1440min", "", 1.0)]
        with pytest.raises(NotFound, match="GUARDRAILS_MAX_1440MIN_RATE"):
            await set_to(world, window="24h", limit=0.0)

    in_world(story)


def test_a_repeated_removal_of_a_limit_changes_nothing() -> None:
    async def story(world: World) -> None:
        await set_to(world, window="24h", limit=2.0, project="research")
        await set_to(world, window="24h", limit=2.0)
        for name in ("1d", "24h"):
            await set_to(world, window=name, limit=0.0)
        assert await listed(world) == [("24h", "research", 2.0)]

    in_world(story)


@pytest.mark.parametrize("project", [" ", "\t", "a\0b", "a\nb", "x" * 65, "x" * 100_000])
def test_a_project_that_can_not_be_one_is_refused_and_never_means_all(project: str) -> None:
    async def story(world: World) -> None:
        for fields in ({"project": project}, {"key_id": project}):
            with pytest.raises(InvalidArgument) as refused:
                await set_to(world, window="4m", limit=2.0, **fields)
            assert {each.field for each in refused.value.violations} == {"window", *fields}
        assert await listed(world) == []
        await set_to(world, window="24h", limit=2.0, project=f"  {'x' * 64} ")
        assert await listed(world) == [("24h", "x" * 64, 2.0)]

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
