"""How calls end: while the server stops, after their owner destroyed machines, and without an answer to a create."""

import asyncio

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.outcomes import answers
from tests.world import VAST, World, in_world

CALLER = Caller(project="p1")


def test_a_call_that_is_choosing_when_the_server_stops_rents_nothing() -> None:
    async def story(world: World) -> None:
        world.delay = lambda: 0.5  # for each commit, request and answer
        await world.restart()
        await world.sleep(60)
        call = asyncio.ensure_future(world.reserve(4, request_id="r1"))
        await world.sleep(0.25)
        assert world.calls("create") == 0
        await world.engine.drain(30)
        await asyncio.wait([call])
        assert call.exception() is not None
        assert world.calls("create") == 0
        assert world.alive() == {}

    in_world(story)


def test_a_machine_that_its_owner_destroys_while_the_call_waits_is_not_replaced() -> None:
    async def story(world: World) -> None:
        call = asyncio.ensure_future(world.reserve(2, wait_for="ready", seconds=600, request_id="r1"))
        while len(world.alive()) < 2:  # noqa: ASYNC110 - the market has no event to wait for
            await asyncio.sleep(0.1)
        await world.sleep(5)
        first = min(world.alive())
        await world.engine.instances.destroy(CALLER, VAST, first)
        made = await call
        assert [lease.state for lease in made.leases].count(LeaseState.ACTIVE) == 1
        await world.sleep(300)
        assert world.calls("create") == 2
        assert len(world.alive()) == 1

    in_world(story)


def test_a_crash_of_an_unawaited_call_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(world: World) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(answers, "verdict", broken)
        with capture_logs() as lines:
            await world.reserve(1, wait=False)
            await world.sleep(300)
        assert "task_crashed" in {line["event"] for line in lines if line["log_level"] == "error"}

    in_world(story)


@pytest.mark.parametrize("fault", ["hang_before", "hang_after"])
def test_a_create_without_an_answer_is_unknown_in_the_answer_although_its_lease_has_ended(fault: str):
    async def story(world: World) -> None:
        world.arm("create", fault, seconds=300)
        world.arm("list", "status_500_before", times=0)
        made = await world.reserve(1, request_id="a", lease=20)
        assert [lease.state for lease in made.leases] == [LeaseState.RELEASING]
        assert "1 unknown" in made.reservation.message
        world.control("DELETE", "faults")
        await world.sleep(1500)
        [lease] = (await world.view(made.reservation.id)).leases
        assert lease.state is LeaseState.RELEASED
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)
