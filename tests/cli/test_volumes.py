"""`ps` and `show` list volumes with their sizes, and count them apart from machines."""

from datetime import UTC, datetime

from gpuproxy.cli.machines import machine_table, totals
from gpuproxy.v1 import gpuproxy_pb2 as pb

NOW = datetime(2026, 6, 12, tzinfo=UTC)
MACHINE = pb.GPUInstance(contract_id="1", status="active", num_gpus=1, gpu_model="RTX 4090", price_per_hour=0.4)
VOLUME = pb.GPUInstance(contract_id="2", status="active", price_per_hour=0.002)
VOLUME.metadata.update({"kind": "volume", "size_gb": "100"})


def test_a_volume_is_a_line_with_its_size() -> None:
    line = machine_table([MACHINE, VOLUME], NOW).splitlines()[2]
    assert "volume 100 GB" in line
    assert "$0.0020" in line


def test_volumes_are_counted_apart() -> None:
    assert totals([MACHINE, VOLUME, VOLUME]).startswith("1 machine, 1 GPU, 2 volumes · $0.4040/h")
    assert totals([MACHINE]).startswith("1 machine, 1 GPU · $0.40/h")
