"""Volumes are leased like machines, so they are in the lists of what is rented; they have no GPUs."""

from dataclasses import replace

import pytest

from gpuproxy.edge.messages.transactions import transaction_message
from gpuproxy.instances.requests import LeaseView
from gpuproxy.model.money import Micro
from gpuproxy.model.transactions import Meter, Transaction
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.engine import NOW, StubEngine, service_over
from tests.edge.face import facing
from tests.edge.pools import PRIMARY, VOLUME

MINE = [LeaseView(lease=each, cost=Micro(7)) for each in (PRIMARY, VOLUME)]


async def rented(**fields: object) -> list[pb.GPUInstance]:
    async with facing(service_over(StubEngine(mine=MINE))) as face:
        answer = await face.call("ListGPUInstances", pb.ListGPUInstancesRequest(state="rented", **fields))
    return list(answer.instances)


async def test_a_volume_is_listed_with_its_kind_and_size() -> None:
    shown = (await rented())[1]
    assert (shown.contract_id, shown.metadata["kind"], shown.metadata["size_gb"]) == ("V.12345", "volume", "100")
    assert (shown.num_gpus, shown.disk_gb, shown.price_per_hour, shown.price_per_gpu_hour) == (0, 100.0, 0.002, 0.0)


async def test_a_machine_has_no_kind() -> None:
    assert "kind" not in (await rented())[0].metadata


@pytest.mark.parametrize("order", ["price_per_gpu_hour desc", "price_per_hour", "vram_gb desc", "reliability"])
async def test_every_order_of_a_list_takes_volumes(order: str) -> None:
    assert len(await rented(order_by=order)) == 2


async def test_a_filter_for_gpus_leaves_volumes_out() -> None:
    assert [each.contract_id for each in await rented(min_vram=16)] == ["456789"]


def test_a_transaction_of_a_volume_says_so() -> None:
    meter = Meter(
        lease_id=VOLUME.id,
        reservation_id=VOLUME.reservation_id,
        provider=VOLUME.provider,
        instance_id=VOLUME.instance_id,  # type: ignore[arg-type]
        gpu_model="",
        num_gpus=0,
        storage=False,
        rate=Micro(2_000),
        opened_at=NOW,
        closed_at=None,
    )
    spent = Transaction(meter=meter, started_at=NOW, ended_at=NOW, amount=Micro(1), pending=True)
    assert transaction_message(spent).description == "volume at $0.0020/h on vast.ai, contract V.12345"
    machine = replace(spent, meter=replace(meter, gpu_model="RTX 4090", num_gpus=1))
    assert transaction_message(machine).description.startswith("1 x RTX 4090 at")
