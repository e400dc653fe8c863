"""The fault matrix end to end: whatever a create or a destroy runs into, the books and the market agree afterwards.

The engine, store, adapter and sandbox of the real thing on virtual time; the cells are those of the socket matrix.
A third of the stories is told by default, and all with `--all-seeds`.
"""

from contextlib import suppress

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.reservations import ReservationView
from tests.system.matrix import Cell, cells
from tests.world import World, in_world

_CREATES = [cell for cell in cells() if cell.call == "create"]
_DESTROYS = [cell for cell in cells() if cell.call == "destroy"]
_QUIET = 1500.0
"""Long enough for every proof: twice the quarantine, three listings, a few destroys."""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("request_id", ["", "a"], ids=["nameless", "named"])
@pytest.mark.parametrize("cell", _CREATES, ids=[cell.row for cell in _CREATES])
def test_after_a_fault_in_a_create_the_database_and_the_market_agree(cell: Cell, request_id: str) -> None:
    async def story(world: World) -> None:
        made: ReservationView | None = None
        waited: list[int] = []
        world.overhear_answers.append(lambda _, answer: waited.append(answer.status) if answer.status == 429 else None)
        world.control("POST", "faults", {"provider": "vast.ai", **cell.order(times=2)})
        with suppress(Refusal):
            made = await world.reserve(3, request_id=request_id)
        world.control("DELETE", "faults")
        await world.sleep(_QUIET)
        await world.books_agree()
        await _one_create_each(world, waited=len(waited))
        assert not [lease for lease in await world.leases() if lease.state is LeaseState.UNKNOWN]
        if made is not None:
            await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(_QUIET)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story, machines=20)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cell", _DESTROYS, ids=[cell.row for cell in _DESTROYS])
def test_after_a_destroy_met_a_fault_everything_is_gone_in_the_end(cell: Cell) -> None:
    async def story(world: World) -> None:
        made = await world.reserve(3)
        await world.sleep(120)
        world.control("POST", "faults", {"provider": "vast.ai", **cell.order(times=4)})
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(_QUIET)
        assert world.alive() == {}
        assert {lease.state for lease in await world.leases()} == {LeaseState.RELEASED}
        assert world.created() == 3
        await world.books_agree()

    in_world(story, machines=20)


async def _one_create_each(world: World, *, waited: int) -> None:
    """One request for each call that the books say was started, and no label twice among all that ever existed.

    `waited`: creates that the market answered with 429; the same lease waits then, and its call starts anew.
    """
    started = [lease for lease in await world.leases() if lease.creation.call_started_at is not None]
    assert world.calls("create") == len(started) + waited
    labels = [instance["label"] for instance in world.market["instances"]]
    assert len(labels) == len(set(labels))
