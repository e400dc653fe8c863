"""Five failovers of the real processes at real speed: a server, the sandbox with vast.ai's boot times, real scripts.

`python -m scripts.real_drills [N]` prints the phases of N tested failovers (default 5) and of one real failure.
"""

import sys
import tempfile
from pathlib import Path

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import Client, Market, Server, until

_USUAL = 5
_PATIENCE = 900.0
_PHASES = ("detect", "fence", "start", "reachable", "promote")


def main(drills: int) -> int:
    """Run the drills; the exit code is 0."""
    with tempfile.TemporaryDirectory(prefix="gpuproxy-drills-") as folder:
        options = ("--time-scale", "1", "--boot-time", "20,40", "--boot-scripts", "ours")
        with Market(Path(folder), *options) as market:
            server = Server(Path(folder), market)
            with server, server.client() as client:
                until(client.knows_offers)
                _provision(client)
                for _ in range(drills):
                    client.call("TestWarmPoolFailover", pb.TestWarmPoolFailoverRequest(machine_id=1), timeout=_PATIENCE)
                before = _status(client)
                market.control("POST", f"instances/{before.primary_gpu_id}/kill", {"how": "container"})
                until(lambda: _status(client).failover_count == drills + 1)
                print(_table(_status(client)))
            (volume,) = market.state()["volumes"]
            print(f"\nmost writers at a time: {volume['most_writers']}, most workloads: {volume['most_workloads']}")
    return 0


def _provision(client: Client) -> None:
    hosts = client.call("ListWarmPoolHosts", pb.ListWarmPoolHostsRequest(max_price=5)).hosts
    host = next(each.machine_id for each in hosts if each.can_create_warm_pool)
    request = pb.ProvisionWarmPoolRequest(machine_id=1, host_machine_id=host, max_price=5, onstart="sleep 100000")
    client.call("ProvisionWarmPool", request, timeout=_PATIENCE)


def _status(client: Client) -> pb.WarmPoolStatus:
    status: pb.WarmPoolStatus = client.call("GetWarmPoolStatus", pb.GetWarmPoolStatusRequest(machine_id=1))
    return status


def _table(status: pb.WarmPoolStatus) -> str:
    lines = ["| kind | total s | " + " | ".join(f"{phase} s" for phase in _PHASES) + " |", "|---" * 7 + "|"]
    for each in status.failovers:
        seconds = [getattr(each.phases, phase) for phase in _PHASES]
        shown = [f"{part:.1f}" for part in seconds]
        lines.append(f"| {each.kind} | {each.seconds:.1f} | {' | '.join(shown)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else _USUAL))
