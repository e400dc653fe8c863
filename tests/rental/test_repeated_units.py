"""The database may run every unit of work again, for example after a conflict. Nothing changes by that."""

from collections.abc import Callable
from typing import Any

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.ports import Tx
from tests.world import World, in_world


class Again(Exception):
    """The first run of a unit is rolled back."""


def run_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """From now on each unit that succeeds is run, undone, and run again. Returns the list of these units."""
    write, units = world.db.write, []

    async def twice(fn: Callable[[Tx], Any]) -> Any:
        def first(tx: Tx) -> None:
            fn(tx)
            raise Again

        try:
            await write(first)
        except Again:
            units.append(fn)
        return await write(fn)

    monkeypatch.setattr(world.db, "write", twice)
    return units


@pytest.mark.parametrize("twice", [False, True])
def test_a_whole_life_of_machines_is_the_same_if_every_unit_is_run_twice(monkeypatch: pytest.MonkeyPatch, twice: bool):
    async def story(world: World) -> None:
        units = run_twice(world, monkeypatch) if twice else []
        world.arm("create", "reset_after")
        made = await world.reserve(2, request_id="a", strategy="round_robin", lease=3600)
        world.arm("create", "offer_gone")
        await world.reserve(1, request_id="b", wait_for="ready")
        await world.sleep(400)
        assert len(world.alive()) == 3
        assert world.created() == 3
        await world.books_agree()
        [first, *_] = made.leases
        await world.engine.instances.destroy(Caller(project="p1"), first.provider, first.instance_id or "")
        await world.engine.reservations.release(Caller(project="p1"), made.reservation.id)
        await world.sleep(120)
        assert len(world.alive()) == 1
        await world.books_agree()
        before = world.calls("create")
        for name in ("a", "b"):
            try:
                await world.reserve(2 if name == "a" else 1, request_id=name)
            except Refusal as refusal:
                assert refusal.reason == "REQUEST_ID_REUSED"
        assert world.calls("create") == before
        assert (len(units) > 20) is twice
        assert len(await world.leases()) == 4

    in_world(story)
