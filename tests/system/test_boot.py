"""A machine rented through real programs runs its boot script, and the report is in its log."""

from pathlib import Path

import pytest

from gpuproxy import boot
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.edge.test_fields import ssh_key
from tests.system.processes import KIND, UNPACED, Client, Market, Server, until

LONG = "#!/usr/bin/env python3\nprint('mine')\n" + "# the same line again\n" * 2_000


@pytest.mark.parametrize(("mode", "onstart"), [("ours", "skipped"), ("all", "started")])
def test_the_report_of_the_boot_script_is_in_the_log_of_a_rented_machine(
    tmp_path: Path, mode: str, onstart: str
) -> None:
    options = (*KIND, "--boot-time", "0,0", "--boot-scripts", mode)
    with Market(tmp_path, *options) as market, Server(tmp_path, market, **UNPACED) as server, server.client() as client:
        lines = _lines(client)
    assert boot.reported(lines) == {"keys": "added", "onstart": onstart}
    assert ("mine" in lines) == (mode == "all")


def test_a_server_with_its_own_sandbox_runs_our_part_and_not_the_users(tmp_path: Path) -> None:
    with Server(tmp_path, GPUPROXY_TIME_SCALE="20") as server, server.client() as client:
        assert boot.reported(_lines(client)) == {"keys": "added", "onstart": "skipped"}


def _lines(client: Client) -> list[str]:
    """The log of a new machine, once it has a report."""
    until(client.knows_offers)
    request = pb.ReserveGPUsRequest(count=1, max_price=5, onstart=LONG, ssh_public_keys=[ssh_key()], request_id="boot")
    [machine] = client.call("ReserveGPUs", request).reserved_instances
    found: list[str] = []

    def reports() -> bool:
        asked = pb.GetInstanceLogsRequest(instance_id=machine.contract_id)
        found[:] = client.call("GetInstanceLogs", asked).lines
        return boot.reported(found) is not None and ("skipped" in found[-1] or "mine" in found)

    until(reports)
    return found
