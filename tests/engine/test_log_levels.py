"""A warning is something that an operator must act on; what marketplaces do wrong every day is not."""

from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from tests.system.matrix import CALLS, cells
from tests.world import World, in_world


@pytest.mark.parametrize("call", CALLS)
def test_no_fault_of_a_marketplace_is_a_warning(call: str) -> None:
    async def story(world: World) -> None:
        for cell in cells():
            if cell.call == call:
                world.control("POST", "faults", {"provider": "vast.ai", **cell.order()})
                with suppress(Refusal):
                    made = await world.reserve(1)
                    await world.engine.books.release(Caller(project="p1"), made.reservation.id)
                await world.sleep(60)

    with capture_logs() as lines:
        in_world(story, machines=20)
    assert [line for line in lines if line["log_level"] not in ("debug", "info")] == []
