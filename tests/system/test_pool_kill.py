"""The real processes: a failover that is interrupted by a kill in each of its phases ends as one failover."""

from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import Client, Market, Server, until

_SCALE = "6"
_PATIENT = {"GPUPROXY_WARMPOOL_START_TIMEOUT": "1h", "GPUPROXY_WARMPOOL_FENCE_TIMEOUT": "1h"}
"""On a busy machine the market's clock runs while the processes wait for their turn."""


@pytest.mark.parametrize("phase", ["detect", "fence", "start", "after"])
@pytest.mark.sampled(2)
def test_a_server_that_is_killed_in_a_failover_finishes_it_and_begins_no_other(tmp_path: Path, phase: str):
    with Market(tmp_path, "--time-scale", _SCALE, "--boot-scripts", "ours") as market:
        server = Server(tmp_path, market, GPUPROXY_TIME_SCALE=_SCALE, **_PATIENT)
        with server, server.client() as client:
            until(client.knows_offers)
            before = _provisioned(client)
            market.control("POST", f"instances/{before.primary_gpu_id}/kill", {"how": "container"})
            until(lambda: _is_in(client, phase))
            server.kill()
        server.start()
        with server, server.client() as client:
            until(lambda: _status(client).failover_count >= 1 and _status(client).state == "active")
            after = _status(client)
            assert after.failover_count == 1
            assert after.primary_gpu_id == before.standby_gpu_id
            assert after.standby_gpu_id not in (before.primary_gpu_id, before.standby_gpu_id)
        (volume,) = market.state()["volumes"]
        assert (volume["most_writers"], volume["most_workloads"]) == (1, 1)
        assert volume["deleted_at"] is None


def _provisioned(client: Client) -> pb.WarmPoolStatus:
    hosts = client.call("ListWarmPoolHosts", pb.ListWarmPoolHostsRequest(max_price=5)).hosts
    host = next(each.machine_id for each in hosts if each.can_create_warm_pool and each.available_gpus > 2)
    request = pb.ProvisionWarmPoolRequest(machine_id=123, host_machine_id=host, max_price=5, onstart="sleep 100000")
    status: pb.WarmPoolStatus = client.call("ProvisionWarmPool", request).status
    assert status.state == "active", status
    return status


def _status(client: Client) -> pb.WarmPoolStatus:
    status: pb.WarmPoolStatus = client.call("GetWarmPoolStatus", pb.GetWarmPoolStatusRequest(machine_id=123))
    return status


def _is_in(client: Client, phase: str) -> bool:
    """Whether the failover is in this phase or past it. detect: before the server has noticed anything."""
    status = _status(client)
    if phase == "after":
        return status.failover_count == 1
    reached = ["detect", *([status.incident.phase] if status.HasField("incident") else [])]
    return phase in reached or status.failover_count == 1
