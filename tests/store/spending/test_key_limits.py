"""The limit of an API key that is revoked: what was rented with the key goes on to count, until it is gone."""

from datetime import UTC, datetime, timedelta

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import FailedPrecondition
from gpuproxy.model.leases import Lease, LeaseState
from gpuproxy.model.limits import BudgetExceeded
from gpuproxy.model.reservations import ReservationView
from gpuproxy.store import keys, limits, spend_limits
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.store.spending.test_admission import DOLLAR, HOUR, limit, put, usage
from tests.store.spending.test_limit_calls import ADMIN, calls_of, set_to
from tests.world import World, demand, in_world

OTHER = Caller(project="p1", key_id="key-2")


def of_key(usd: float, period: str = "24h") -> limits.SpendingLimit:
    return limit(usd, period, scope="key", subject="key-1", policy="release_newest")


async def rented(world: World, key_id: str = "key-1", **wanted: float) -> Lease | FailedPrecondition:
    caller = Caller(project="p1", key_id=key_id, deadline=world.clock.monotonic() + 120)
    try:
        made = await world.engine.reserver.reserve(caller, demand(1, **wanted))
    except FailedPrecondition as refusal:
        return refusal
    return made.leases[0]


async def revoked(world: World) -> None:
    """There are two keys of the project, and the first one is revoked."""
    for name in ("key-1", "key-2"):
        row = keys.KeyRow(
            id=name, project="p1", name=name, role="user", prefix=name, sha256=name,
            created_at=datetime(2026, 6, 12, tzinfo=UTC),
        )  # fmt: skip
        await world.db.write(lambda tx, row=row: keys.insert(tx, row))  # type: ignore[misc]
    assert await world.db.write(lambda tx: keys.revoke(tx, "p1", "key-1"))


def test_the_machines_of_a_revoked_key_keep_their_holds_until_they_are_gone() -> None:
    async def story(world: World) -> None:
        lease = await rented(world, lease=HOUR)
        assert isinstance(lease, Lease)
        before = await usage(world, of_key(1))
        await revoked(world)
        assert await usage(world, of_key(1)) == before
        assert before.held == pytest.approx(lease.observed.price, rel=0.01)
        await world.engine.reservations.release(OTHER, lease.reservation_id)
        await world.sleep(120)
        after = await usage(world, of_key(1))
        assert after.held == 0
        assert after.spent > 0, "what was paid still counts in its window"

    in_world(story)


def test_an_extension_with_another_key_counts_against_the_limit_of_the_key_that_rented() -> None:
    async def story(world: World) -> None:
        lease = await rented(world, lease=HOUR)
        assert isinstance(lease, Lease)
        assert lease.expires_at is not None
        await revoked(world)
        await put(world, of_key(2.5 * lease.observed.price / DOLLAR))
        reservations = world.engine.reservations
        with pytest.raises(BudgetExceeded) as refused:
            await reservations.extend(OTHER, lease.reservation_id, lease.expires_at + timedelta(hours=2))
        assert refused.value.metadata["subject"] == "key-1"
        longer = await reservations.extend(OTHER, lease.reservation_id, lease.expires_at + timedelta(hours=1))
        assert isinstance(longer, ReservationView)
        assert isinstance(await rented(world, "key-2", lease=HOUR), Lease), "it does not limit the other key"

    in_world(story)


def test_the_limit_of_a_revoked_key_still_ends_its_machines_before_the_money_is_spent() -> None:
    async def story(world: World) -> None:
        lease = await rented(world)
        assert isinstance(lease, Lease)
        free = await rented(world, "key-2")
        assert isinstance(free, Lease)
        await put(world, of_key(0.25 * lease.observed.price / DOLLAR))
        await revoked(world)
        await world.sleep(1200)
        now = {each.id: each.state for each in await world.leases()}
        assert [now[lease.id], now[free.id]] == [LeaseState.RELEASED, LeaseState.ACTIVE]
        assert 0 < (await usage(world, of_key(1))).spent <= 0.25 * lease.observed.price

    in_world(story, settings={"hold_horizon": 600.0})


def test_the_limit_of_a_revoked_key_is_listed_and_can_be_changed_and_removed() -> None:
    async def story(world: World) -> None:
        await revoked(world)
        for amount in (5.0, 6.0):
            await set_to(world, window="24h", limit=amount, key_id="key-1")
            for caller in (ADMIN, OTHER):
                calls = calls_of(world)
                seen = (await calls.ListSpendingLimits(pb.ListSpendingLimitsRequest(), caller)).limits
                assert [(each.key_id, each.limit) for each in seen] == [("key-1", amount)]
        await set_to(world, window="24h", limit=0, key_id="key-1")
        assert await world.db.read(spend_limits.listed) == []

    in_world(story)


def test_the_next_release_of_a_keys_limit_is_that_of_its_own_spending() -> None:
    async def story(world: World) -> None:
        other = await rented(world, "key-2", lease=HOUR)
        assert isinstance(other, Lease)
        await world.sleep(300)
        began = world.clock.now()
        assert isinstance(await rented(world, lease=HOUR), Lease)
        await put(world, of_key(100, "6h"))
        await world.sleep(60)
        windows, _ = await world.engine.money.limits.windows(Caller(project="p1", key_id="key-1"))
        (shown,) = [each for each in windows if each.usage.limit.amount]
        assert shown.next_release_at is not None
        assert abs((shown.next_release_at - began).total_seconds() - 6 * HOUR) < 60

    in_world(story)
