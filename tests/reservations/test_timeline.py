"""The timeline of a reservation: its events in order, for those who may see it."""

import pytest

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import NotFound
from gpuproxy.reservations import requests
from tests.world import World, in_world

P1 = Caller(project="p1")


def test_the_timeline_tells_the_whole_life_in_order():
    async def story(world: World) -> None:
        made = (await world.reserve(1)).reservation.id
        await world.sleep(300)
        await world.engine.reservations.release(P1, made)
        await world.sleep(300)
        told = await world.engine.reservations.timeline(P1, made)
        assert [entry.seq for entry in told] == sorted({entry.seq for entry in told})
        assert [entry.at for entry in told] == sorted(entry.at for entry in told)
        of_machine = [entry.state for entry in told if entry.lease_id]
        assert list(dict.fromkeys(of_machine)) == ["requested", "starting", "active", "releasing", "released"]
        assert {entry.reason for entry in told} >= {"RELEASED"}
        assert len({entry.instance_id for entry in told if entry.instance_id}) == 1

    in_world(story)


def test_another_project_sees_no_timeline_and_an_admin_sees_all():
    async def story(world: World) -> None:
        made = (await world.reserve(1)).reservation.id
        with pytest.raises(NotFound):
            await world.engine.reservations.timeline(Caller(project="p2"), made)
        assert await world.engine.reservations.timeline(Caller(project="p2", role="admin"), made)

    in_world(story)


def test_the_project_of_a_reservation_is_read_by_those_who_may_see_it():
    async def story(world: World) -> None:
        made = (await world.reserve(1)).reservation.id
        with pytest.raises(NotFound):
            await world.engine.reservations.project_of(Caller(project="p2"), made)
        assert await world.engine.reservations.project_of(Caller(project="p2", role="admin"), made) == "p1"

    in_world(story)


def test_a_long_timeline_has_its_last_events(monkeypatch: pytest.MonkeyPatch):
    async def story(world: World) -> None:
        made = (await world.reserve(2)).reservation.id
        whole = await world.engine.reservations.timeline(P1, made)
        monkeypatch.setattr(requests, "MAX_EVENTS", 3)
        assert await world.engine.reservations.timeline(P1, made) == whole[-3:]

    in_world(story)
