"""Two marketplaces at once: some stories here, thousands with `make markets`."""

from typing import Any

import pytest

from tests.simulation import markets
from tests.simulation.audit import Violation
from tests.simulation.markets_audit import MarketsAudit
from tests.virtual_time import run_virtual
from tests.world import World


@pytest.mark.parametrize("seed", [2, 6, 17])
def test_a_story_of_two_marketplaces_keeps_all_promises(seed: int):
    assert markets.run(seed).machines


def test_the_same_seed_gives_the_same_story():
    assert markets.run(6) == markets.run(6)


async def _rented(world: World) -> Any:
    await world.start()
    await world.sleep(5)
    made = await world.reserve(1, verified_only=False, max_price=10.0, providers=frozenset({"io.net"}))
    await world.sleep(120)
    return made.kept[0]


def _audited(break_it: Any) -> Violation | None:
    async def story(clock: Any) -> Violation | None:
        world = World(clock, paced=False, accounts=1, prepaid_accounts=1, seed=3, machines=1)
        audit = MarketsAudit(world)
        lease = await _rented(world)
        break_it(world, lease)
        try:
            audit.final()
        except Violation as violation:
            return violation
        finally:
            await world.engine.stop()
        return None

    return run_virtual(story)


def test_the_audit_has_no_complaint_about_a_rented_machine():
    assert _audited(lambda world, lease: None) is None


def _paid_more(world: World, lease: Any) -> None:
    world.sandbox.prepaid.bookings[lease.instance_id].paid += 1_000_000


def _twice(world: World, lease: Any) -> None:
    booking = world.sandbox.prepaid.bookings[lease.instance_id]
    world.sandbox.prepaid.book(booking.account, booking.order)


def _forgotten(world: World, lease: Any) -> None:
    world.db._writer.execute("UPDATE leases SET state = 'released' WHERE id = ?", (lease.id,))


@pytest.mark.parametrize(("break_it", "kind"), [(_paid_more, "money"), (_twice, "twin"), (_forgotten, "twin")])
def test_the_audit_sees(break_it: Any, kind: str):
    found = _audited(break_it)
    assert found is not None
    assert found.kind == kind
