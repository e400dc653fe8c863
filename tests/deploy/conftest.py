"""One server for all files of docs/deploy: on a sandbox, with rented machines and a warm pool."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import WHOLE, Client, Market, Server, until

_SCALE = "6"
_SETTINGS = {
    "GPUPROXY_TIME_SCALE": _SCALE,
    "GPUPROXY_WARMPOOL_START_TIMEOUT": "1h",
    "GPUPROXY_WARMPOOL_FENCE_TIMEOUT": "1h",
    "GPUPROXY_WEBHOOK_URL": "http://127.0.0.1:9/nobody-listens",
    "GPUPROXY_WEBHOOK_SECRET": "a secret of sixteen",
}
"""On a busy machine the market's clock runs while the processes wait for their turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """The server and its market."""

    market: Market
    server: Server
    client: Client
    reservation_id: str

    @property
    def grpc_port(self) -> int:
        return int(self.server.address.rpartition(":")[2])

    @property
    def http_port(self) -> int:
        return int(self.server.http.rpartition(":")[2])


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that has rented two machines and a warm pool."""
    folder = tmp_path_factory.mktemp("deployed")
    options = ("--rate-limits", "off", *WHOLE, "--time-scale", _SCALE)
    with Market(folder, *options) as market, Server(folder, market, **_SETTINGS) as server, server.client() as client:
        until(client.knows_offers)
        wanted = pb.ReserveGPUsRequest(count=2, max_price=5.0, request_id="deployed")
        made = client.call("ReserveGPUs", wanted)
        client.call("SetSpendingLimit", pb.SetSpendingLimitRequest(window="24h", limit=50, policy="warn"))
        hosts = client.call("ListWarmPoolHosts", pb.ListWarmPoolHostsRequest(max_price=5.0)).hosts
        number = next(each.machine_id for each in hosts if each.can_create_warm_pool)
        client.call("ProvisionWarmPool", pb.ProvisionWarmPoolRequest(machine_id=1, host_machine_id=number))
        yield Running(market=market, server=server, client=client, reservation_id=made.reservation_id)


def listens(port: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait until a program accepts connections. Its log is in `folder`."""

    def accepts() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    until(accepts)
