"""A contract id names one machine for ever. If a marketplace names one that another lease has, nothing is guessed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from gpuproxy.health.checkup import findings
from gpuproxy.model.demands import Caller
from gpuproxy.model.leases import LeaseState
from gpuproxy.ports import HttpRequest, HttpResponse
from tests.world import World, in_world

pytestmark = pytest.mark.long

P1 = Caller(project="p1")


@contextmanager
def _new_ones_named(world: World, contract: int) -> Iterator[None]:
    """Make the market name this contract id for each machine that is created from now on."""
    send, known = world.http.send, {each["label"] for each in world.alive().values()}

    async def renaming(request: HttpRequest) -> HttpResponse:
        response = await send(request)
        if response.status != 200 or not response.body.startswith(b"{"):
            return response
        said = json.loads(response.body)
        if "new_contract" in said:
            said["new_contract"] = contract
        for each in said["instances"] if isinstance(said.get("instances"), list) else ():
            each["id"] = each["id"] if each["label"] in known else contract
        return HttpResponse(status=200, headers=response.headers, body=json.dumps(said).encode())

    world.http.send = renaming  # type: ignore[method-assign]
    yield
    world.http.send = send  # type: ignore[method-assign]


async def _ended(world: World) -> int:
    """The contract id of a lease that has ended."""
    made = await world.reserve(1, request_id="ended")
    await world.sleep(60)
    await world.engine.reservations.release(P1, made.reservation.id)
    await world.sleep(120)
    [lease] = (await world.view(made.reservation.id)).leases
    assert lease.state is LeaseState.RELEASED
    return int(lease.instance_id or 0)


@pytest.mark.parametrize("answer", ["named", "lost"])
def test_a_machine_with_the_contract_id_of_another_lease_stays_unknown_and_stops_nothing_else(answer: str):
    async def story(world: World) -> None:
        old = await _ended(world)
        other = await world.reserve(1, request_id="other")
        if answer == "lost":
            world.arm("create", "reset_after")
        with capture_logs() as logs, _new_ones_named(world, old):
            made = await world.reserve(1, request_id="a")
            await world.sleep(120)
            assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.UNKNOWN
            found = await world.db.read(lambda tx: findings(tx, {("vast.ai", "vast-1")}))
            assert any(str(old) in each.text for each in found if each.kind == "unknown"), found
            await world.engine.reservations.release(P1, other.reservation.id)
            await world.sleep(120)
            assert (await world.view(other.reservation.id)).leases[0].state is LeaseState.RELEASED
        assert [each["contract"] for each in logs if each["log_level"] == "error"] == [str(old)]
        await world.sleep(60)
        assert len((await world.view(made.reservation.id)).kept) == 1
        await world.books_agree()

    in_world(story)


def test_a_machine_with_the_contract_id_of_another_lease_is_released_once_its_own_id_is_shown():
    async def story(world: World) -> None:
        old = await _ended(world)
        with _new_ones_named(world, old):
            made = await world.reserve(1, request_id="a", lease=60)
            await world.sleep(300)
            assert (await world.view(made.reservation.id)).leases[0].state is LeaseState.RELEASING
        await world.sleep(60)
        assert world.alive() == {}
        await world.books_agree()

    in_world(story)
