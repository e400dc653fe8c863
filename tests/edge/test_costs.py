from datetime import timedelta

import pytest

from gpuproxy.edge.messages.transactions import transaction_message
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.leases import InstanceId, LeaseId, LeaseState, ReservationId
from gpuproxy.model.money import Micro
from gpuproxy.model.transactions import Meter, newest
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import NOW, VAST, StubEngine, lease, offer, service_over
from tests.edge.face import facing


async def test_transactions_are_a_page_of_at_most_a_thousand() -> None:
    engine = StubEngine()
    async with facing(service_over(engine)) as face:
        assert (await face.call("GetTransactions", key="gp_viewer")).total_count == 7
        await face.call("GetTransactions", pb.GetTransactionsRequest(limit=5000, offset=3))
        refused = await face.refused("GetTransactions", pb.GetTransactionsRequest(limit=-1, offset=-1))
    assert engine.asked == [("transactions", "p1", 50, 0), ("transactions", "p1", 1000, 3)]
    assert refused.fields.keys() == {"limit", "offset"}


def test_a_transaction_says_what_when_and_how_much() -> None:
    meter = Meter(
        lease_id=LeaseId("lease-a-01"),
        reservation_id=ReservationId("res-a"),
        provider=VAST,
        instance_id=InstanceId("9001"),
        gpu_model="RTX 4090",
        num_gpus=2,
        storage=False,
        rate=Micro(800_000),
        opened_at=NOW,
        closed_at=None,
    )
    pending, completed = map(transaction_message, newest([meter], [], NOW + timedelta(minutes=90), 0, 5))
    assert (completed.type, completed.status, completed.currency, completed.amount) == (
        "usage",
        "completed",
        "USD",
        0.8,
    )
    assert (completed.timestamp, completed.gpu_hours) == (int(NOW.timestamp()) + 3600, 2.0)
    assert completed.description == "2 x RTX 4090 at $0.8000/h on vast.ai, contract 9001"
    assert (pending.status, pending.amount, pending.HasField("ended_at")) == ("pending", 0.4, False)


@pytest.mark.parametrize(("billed", "rate"), [("all", "0.400000"), ("disk", "0.012500"), ("nothing", "0.000000")])
async def test_an_instance_says_what_is_billed_at_this_moment(billed: str, rate: str) -> None:
    machine = lease(1, LeaseState.ACTIVE, billed=billed, disk_price=Micro(12_500))
    engine = StubEngine(mine=[LeaseView(lease=machine, cost=Micro(0))])
    async with facing(service_over(engine)) as face:
        answer = await face.call("GetGPUInstance", pb.GetGPUInstanceRequest(provider="vast.ai", instance_id="9001"))
    assert answer.instance.metadata["billed_per_hour"] == rate
    assert answer.instance.price_per_hour == 0.4


async def test_an_offer_is_found_at_its_shown_price_per_gpu() -> None:
    engine = StubEngine(offers=[offer(gpus, price=507_217, gpus=gpus) for gpus in (1, 3, 6, 7, 8)])
    async with facing(service_over(engine)) as face:
        shown = (await face.call("ListGPUInstances")).instances
        for each in shown:
            same = pb.ListGPUInstancesRequest(max_price=each.price_per_gpu_hour)
            assert each.id in [one.id for one in (await face.call("ListGPUInstances", same)).instances]
    assert len(shown) == 5
