"""The true-up: the final cost of a machine is exactly what the marketplace charged."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.demands import Caller
from gpuproxy.model.transactions import Adjustment
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")
_CALM: dict[str, Any] = {
    "machines": 6,
    "settings": {"reconcile_interval": 600.0},
}
"""Days pass here: a small market that is seldom read, where nothing depends on how often."""
_SETTLED = 3.2 * 3600
"""Seconds after its end within which the cost of a machine is trued up."""


async def over(world: World, *, hours: float = 2.0) -> str:
    """The reservation of a machine that ran for some time and is gone."""
    made = await world.reserve(1)
    await world.sleep(hours * 3600)
    await world.engine.reservations.release(P1, made.reservation.id)
    await world.sleep(200)
    assert world.alive() == {}
    return str(made.reservation.id)


async def adjustments(world: World) -> list[Adjustment]:
    told, _ = await world.engine.spending.transactions(P1, 1000, 0)
    return [each for each in told if isinstance(each, Adjustment)]


async def spent(world: World) -> int:
    """The sum of the completed transactions."""
    told, _ = await world.engine.spending.transactions(P1, 1000, 0)
    return sum(each.amount for each in told if isinstance(each, Adjustment) or not each.pending)


def test_what_was_spent_is_what_the_market_billed():
    async def story(world: World) -> None:
        made = await over(world)
        before = await spent(world)
        await world.sleep(_SETTLED)
        billed = world.market["bill_micro_usd"]
        assert await spent(world) == billed
        assert sum((await world.view(made)).costs) == await spent(world)
        assert abs(before - billed) <= billed // 50, "the meters were close already"

    in_world(story, **_CALM)


def test_a_difference_is_one_adjustment_and_changes_nothing_that_was_completed():
    async def story(world: World) -> None:
        await over(world)
        completed, _ = await world.engine.spending.transactions(P1, 1000, 0)
        await _overcharge(world, 250_000)
        await world.sleep(_SETTLED)
        told, total = await world.engine.spending.transactions(P1, 1000, 0)
        (adjusted,) = await adjustments(world)
        assert adjusted.amount == pytest.approx(250_000, abs=20_000)
        assert [each for each in told if each is not adjusted and not isinstance(each, Adjustment)] == completed
        assert total == len(told)
        await world.sleep(24 * 3600)
        assert await adjustments(world) == [adjusted]

    in_world(story, **_CALM)


def test_nothing_is_trued_up_while_the_market_lists_no_charge():
    async def story(world: World) -> None:
        await over(world)
        await _overcharge(world, 250_000)
        world.arm("charges", "html_502", times=0)
        await world.sleep(12 * 3600)
        assert await adjustments(world) == []
        world.control("DELETE", "faults")
        await world.sleep(3700)
        assert len(await adjustments(world)) == 1

    in_world(story, **_CALM)


def test_a_running_machine_is_not_trued_up():
    async def story(world: World) -> None:
        await world.reserve(1)
        await _overcharge(world, 250_000)
        await world.sleep(24 * 3600)
        assert await adjustments(world) == []

    in_world(story, **_CALM)


def test_a_charge_is_taken_to_its_last_digit():
    async def story(world: World) -> None:
        made = await over(world)
        lease = (await world.view(made)).leases[0]
        await _overcharge(world, 7)
        await world.sleep(_SETTLED)
        (row,) = await world.db.read(lambda tx: tx.fetch("SELECT * FROM settlements"))
        assert row["lease_id"] == lease.id
        assert row["amount"] == row["charged"] - row["metered"]
        assert row["charged"] == world.market["bill_micro_usd"]

    in_world(story, **_CALM)


def test_charges_that_come_in_parts_are_read_until_two_readings_agree():
    async def story(world: World) -> None:
        made = await over(world)
        await _overcharge(world, 100_000)
        await world.sleep(_SETTLED)
        first = await adjustments(world)
        await _overcharge(world, 50_000)
        await world.sleep(26 * 3600)
        assert (await adjustments(world))[1:] == first, "what was told once stays"
        assert abs(await spent(world) - _billed(world)) < 1000
        await world.sleep(26 * 3600)
        rows = await world.db.read(lambda tx: tx.fetch("SELECT charged FROM settlements ORDER BY at"))
        assert len(rows) == 3
        await world.sleep(5 * 24 * 3600)
        assert await world.db.read(lambda tx: tx.fetch("SELECT charged FROM settlements ORDER BY at")) == rows
        assert sum((await world.view(made)).costs) == await spent(world)

    in_world(story, **_CALM)


def _billed(world: World) -> int:
    return sum(gone.billed for gone in world.sandbox.market.ended)


async def _overcharge(world: World, micro: int) -> None:
    """Make the market charge more than its prices, as for network traffic."""
    from dataclasses import replace

    market = world.sandbox.market
    market.ended[:] = [replace(gone, billed=gone.billed + micro) for gone in market.ended]


def test_an_adjustment_is_one_line_in_the_log_with_both_amounts():
    async def story(world: World) -> None:
        await over(world)
        await _overcharge(world, 250_000)
        await world.sleep(_SETTLED + 48 * 3600)

    with capture_logs() as lines:
        in_world(story, **_CALM)
    (line,) = [line for line in lines if line["event"] == "cost_adjusted"]
    (released,) = [line for line in lines if line["event"] == "instance_released"]
    assert (line["contract"], line["lease"]) == (released["contract"], released["lease"])
    assert line["metered"] == released["cost"]
    assert line["charged"] - line["metered"] == pytest.approx(0.25, abs=0.02)
