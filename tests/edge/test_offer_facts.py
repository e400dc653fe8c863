"""What a list says about the machine of an offer, and what it leaves out because it is unknown."""

from datetime import UTC, timedelta

from gpuproxy.model.money import Micro
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import NOW, StubEngine, offer, service_over
from tests.edge.face import facing


async def test_an_offer_says_what_its_machine_is_like() -> None:
    engine = StubEngine(
        offers=[
            offer(
                1, compute_cap=8.9, cpu_cores=7.5, ram_gb=64.0, disk_bandwidth=2291.0, inet_down=535.2, inet_up=723.5,
                inet_down_price=Micro(1302), inet_up_price=Micro(0), direct_ports=0, expires_at=NOW + timedelta(days=1),
            )
        ]
    )  # fmt: skip
    async with facing(service_over(engine)) as face:
        [shown] = (await face.call("ListGPUInstances", pb.ListGPUInstancesRequest())).instances
    assert (shown.compute_cap, shown.cpu_cores, shown.ram_gb, shown.disk_bandwidth) == (8.9, 7.5, 64.0, 2291.0)
    assert (shown.inet_down, shown.inet_up, shown.inet_down_price, shown.inet_up_price) == (535.2, 723.5, 0.001302, 0)
    assert (shown.HasField("inet_up_price"), shown.HasField("direct_ports"), shown.direct_ports) == (True, True, 0)
    assert shown.expires_at.ToDatetime(UTC) == NOW + timedelta(days=1)


async def test_what_an_offer_does_not_say_is_absent() -> None:
    async with facing(service_over(StubEngine(offers=[offer(1)]))) as face:
        [shown] = (await face.call("ListGPUInstances", pb.ListGPUInstancesRequest())).instances
    assert (shown.compute_cap, shown.cpu_cores, shown.ram_gb, shown.inet_down) == (0, 0, 0, 0)
    for name in ("inet_down_price", "inet_up_price", "direct_ports", "expires_at"):
        assert not shown.HasField(name)
