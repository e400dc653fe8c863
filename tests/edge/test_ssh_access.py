"""How an instance is shown that callers log in to."""

from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.leases import LeaseState
from gpuproxy.model.money import Micro
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import StubEngine, lease, service_over
from tests.edge.face import facing


async def test_the_ssh_command_has_the_user_of_the_machine() -> None:
    mine = LeaseView(lease=lease(1, LeaseState.ACTIVE, ssh_user="ubuntu"), cost=Micro(1_500_000))
    async with facing(service_over(StubEngine(mine=[mine]))) as face:
        answer = await face.call("GetGPUInstance", pb.GetGPUInstanceRequest(provider="vast.ai", instance_id="9001"))
    assert (answer.instance.ssh.user, answer.instance.ssh.command) == ("ubuntu", "ssh -p 12345 ubuntu@ssh4.example")
