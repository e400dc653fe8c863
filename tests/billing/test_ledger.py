"""The ledger over a whole deployment: it says what transactions say, and in the end what the marketplace billed."""

from datetime import timedelta
from typing import Any

import pytest

from gpuproxy.model.bookings import SLACK
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import TERMINAL, Lease
from gpuproxy.model.transactions import Adjustment
from gpuproxy.ports import Tx
from gpuproxy.store import leases, ledger
from tests.ionet_world import IoNetWorld, in_ionet_world
from tests.sums import ledger_of_leases
from tests.warmpool.test_life import caller, provisioned
from tests.world import VAST, World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
CALM: dict[str, Any] = {"machines": 6, "settings": {"reconcile_interval": 600.0}}
SETTLED = 3.3 * 3600
"""Seconds after its end within which the charge of a machine is read."""


async def completed(world: World) -> int:
    """The sum of the completed transactions."""
    told, total = await world.engine.spending.transactions(P1, 1000, 0)
    assert len(told) == total
    return sum(each.amount for each in told if isinstance(each, Adjustment) or not each.pending)


async def posted(world: World) -> dict[str, int]:
    return await world.db.read(ledger_of_leases)


async def spent(world: World, hours: float, project: str | None = "p1") -> int:
    """What was spent in the last hours."""

    def read(tx: Tx) -> int:
        since = tx.now() - timedelta(hours=hours)
        return ledger.spent(tx, project=project, key_id=None, since=since, until=tx.now())

    return await world.db.read(read)


def test_the_completed_transactions_are_the_ledger():
    async def story(world: World) -> None:
        first = await world.reserve(2)
        await world.sleep(600)
        for hours in (1.3, 2.0, 4.7):
            await world.sleep(hours * 3600)
            await world.engine.money.posting.step()
            assert sum((await posted(world)).values()) == await completed(world) > 0
        await world.engine.reservations.release(P1, first.reservation.id)
        await world.sleep(400)
        assert sum((await posted(world)).values()) == await completed(world)
        await world.sleep(SETTLED)
        assert sum((await posted(world)).values()) == await completed(world)
        assert await spent(world, 100) == await completed(world)
        await world.books_agree()

    in_world(story, **CALM)


def bill(world: World) -> dict[str, int]:
    """What the market has billed for each contract and volume, named as in the books."""
    market = world.market
    named = {str(row["id"]): row["billed_micro_usd"] for row in market["instances"]}
    named |= {f"V.{row['id']}": row["billed_micro_usd"] for row in market["volumes"]}
    return {contract: billed for contract, billed in named.items() if billed}


async def by_contract(world: World) -> dict[str, int]:
    """The same by the ledger, with what open meters have accrued."""
    await world.engine.money.posting.step()
    rows = {lease.id: lease for lease in await world.leases()}
    costs = await world.db.read(lambda tx: leases.costs(tx, rows.values()))
    found = {str(lease.instance_id): cost for lease, cost in zip(rows.values(), costs, strict=True) if cost}
    ended = await posted(world)
    for lease in rows.values():
        if lease.state in TERMINAL and lease.id in ended:
            assert found[str(lease.instance_id)] == ended[lease.id], "the ledger has all of it"
    return found


def assert_close(world: World, ledger_says: dict[str, int], rows: tuple[Lease, ...], seconds: float) -> None:
    """No contract is on one side only, and each differs by its hourly rate for so many seconds at most."""
    billed = bill(world)
    assert set(billed) == set(ledger_says)
    rates = {str(lease.instance_id): lease.observed.price for lease in rows}
    for contract, amount in billed.items():
        assert abs(ledger_says[contract] - amount) <= rates[contract] * seconds / 3600 + 1, contract


def test_on_demand_each_contract_is_close_before_the_true_up_and_equal_after_it():
    """Machines that run, that were stopped and started, and a warm pool with its volume and its stopped standby."""

    async def story(world: World) -> None:
        made, poll = await world.reserve(2), world.settings.reconcile_interval
        one = str(made.leases[0].instance_id)
        await world.sleep(3 * 3600)
        await world.engine.machines.stop(caller(world), VAST, one)
        await world.sleep(3600)
        assert_close(world, await by_contract(world), await world.leases(), poll)
        await world.engine.machines.start(caller(world), VAST, one)
        await provisioned(world)
        await world.sleep(900)
        assert_close(world, await by_contract(world), await world.leases(), poll)
        await world.engine.reservations.release(P1, made.reservation.id)
        await world.engine.pools.cleanup(caller(world), 123, keep_volume=False)
        await world.sleep(600)
        assert world.alive() == {}
        assert_close(world, await by_contract(world), await world.leases(), poll)
        await world.sleep(SETTLED)
        assert await by_contract(world) == bill(world)
        assert any(name.startswith("V.") for name in bill(world))
        assert sum((await posted(world)).values()) == world.market["bill_micro_usd"] == await completed(world)
        await world.books_agree()

    in_world(story, machines=12, settings={"reconcile_interval": 60.0})


def test_bookings_are_equal_to_the_bill_and_refunds_are_close():
    """io.net tells what was paid, and never what it gave back. A refund follows its rule and the told minutes."""

    async def story(world: IoNetWorld) -> None:
        first = await world.rent("a", lease=5 * 3600)
        await world.rent("b", lease=7 * 3600)
        await world.sleep(2.5 * 3600)
        assert await by_contract(world) == bill(world)
        await world.engine.reservations.release(P1, first.reservation.id)
        await world.sleep(6 * 3600)
        assert world.alive() == {}
        assert_close(world, await by_contract(world), await world.leases(), SLACK.total_seconds())
        assert sum((await posted(world)).values()) == await completed(world)
        await world.sums_are_right()

    in_ionet_world(story, hours=2)
