"""A machine is active when a caller can get in, and says what was seen."""

import pytest

from gpuproxy.edge.messages.reservations import reservation_message
from gpuproxy.model.demands import Caller, LaunchSpec
from gpuproxy.model.leases import LeaseState
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.world import World, in_world

pytestmark = pytest.mark.long

CALLER = Caller(project="p1")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGrTUxB3EwNmkAlDTcLBpJs8kfdO7JzOw0wJdBX0Yd4t me@example"


async def rented(world: World, spec: LaunchSpec) -> pb.GPUInstance:
    made = await world.reserve(1, wait_for="ready", seconds=1500, spec=spec, request_id="a")
    assert made.leases[0].state is LeaseState.ACTIVE, made.leases
    (instance,) = reservation_message(await world.engine.reservations.by_id(CALLER, made.reservation.id)).instances
    return instance


@pytest.mark.parametrize(
    ("spec", "evidence"),
    [
        (LaunchSpec(), "ssh greets"),
        (LaunchSpec(ports=(8000,)), "ssh greets"),
        (LaunchSpec(run_mode="jupyter"), "ssh greets"),
        (LaunchSpec(run_mode="entrypoint", ports=(8000,)), "port 8000 accepts"),
        (LaunchSpec(run_mode="entrypoint"), "running"),
    ],
)
def test_a_ready_machine_says_what_was_seen(spec: LaunchSpec, evidence: str) -> None:
    async def story(world: World) -> None:
        instance = await rented(world, spec)
        assert (instance.status, instance.ready_evidence) == ("active", evidence)
        assert instance.HasField("ssh") is (spec.run_mode != "entrypoint")

    in_world(story)
