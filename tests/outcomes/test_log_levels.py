"""A warning needs an operator. The everyday faults of marketplaces do not."""

from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from tests import databases
from tests.system.matrix import CALLS, cells
from tests.world import LIVELY, VAST, World, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1")


async def provoke(world: World, call: str, contract: str) -> None:
    """Make the engine send this call to the marketplace. It sends searches and lists by itself."""
    machines = world.engine.machines
    match call:
        case "start":
            await machines.stop(CALLER, VAST, contract)
            await machines.start(CALLER, VAST, contract)
        case "stop":
            await machines.stop(CALLER, VAST, contract)
        case "logs":
            await machines.logs(CALLER, VAST, contract, 5)
        case "charges":
            await world.engine.true_ups[0].step()
        case "user":
            await world.engine.billing_checks[0].step()
        case _:
            made = await world.reserve(1)
            await world.engine.reservations.release(CALLER, made.reservation.id)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("call", CALLS)
def test_no_fault_of_a_marketplace_is_a_warning(call: str) -> None:
    async def story(world: World) -> None:
        contract = str((await world.reserve(1, wait_for="ready", seconds=600)).leases[0].instance_id)
        if call == "charges":
            await world.engine.reservations.release(CALLER, (await world.reserve(1)).reservation.id)
            await world.sleep(7500)  # now its true-up is due
        for cell in cells():
            if cell.call == call:
                world.control("DELETE", "faults")
                times = 0 if call == "charges" else 1  # until the next cell: charges are not read again after a true-up
                world.control("POST", "faults", {"provider": "vast.ai", **cell.order(times)})
                before = world.calls(call)
                with suppress(Refusal):
                    await provoke(world, call, contract)
                await world.sleep(200 if call == "create" else 40)  # a refused create may pause its account
                assert world.calls(call) > before, cell.row
                await world.restart()  # forget the pauses that the fault has caused

    with capture_logs() as lines:
        in_world(story, settings=LIVELY, machines=20)
    assert [line for line in lines if line["log_level"] not in ("debug", "info")] == []


@databases.sqlite_only
def test_what_an_operator_must_act_on_is_logged_as_a_warning() -> None:
    async def story(world: World) -> None:
        await world.reserve(1)
        world.db._writer.conn.execute("PRAGMA query_only=ON")
        await world.sleep(60)
        world.db._writer.conn.execute("PRAGMA query_only=OFF")

    with capture_logs() as lines:
        in_world(story, settings=LIVELY)
    assert {line["log_level"] for line in lines} >= {"warning"}
