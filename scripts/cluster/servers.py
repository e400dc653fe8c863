"""The three servers: each with forwarders to the database and to the market, and started again whenever it is dead."""

import secrets
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from gpuproxy.v1.gpuproxy_pb2_grpc import GPUProxyServiceStub
from scripts.cluster.forwarding import Network
from scripts.cluster.market import ACCOUNTS, Effects
from scripts.cluster.postgres import DATABASE, USER, Cluster
from tests.ports import free_port
from tests.system.processes import Market, Server

_PAUSE = 0.2
_CHANNEL = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Replica:
    """One of the servers."""

    def __init__(
        self, number: int, folder: Path, network: Network, *, cluster: Cluster, market: Market, effects: Effects,
        settings: dict[str, str],
    ) -> None:  # fmt: skip
        self.name = f"server{number}"
        self.starts = 0
        self.failed_starts = 0
        self._folder = folder / self.name
        self._folder.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self.to_database = network.forwarder(cluster.primary.port)
        self.to_market = network.forwarder(
            int(market.url.rpartition(":")[2]), effects.watch(lambda: f"{self.name}-{self.starts}")
        )
        self._market = market
        self._settings = settings | {
            "GPUPROXY_GRPC_ADDR": self.address,
            "GPUPROXY_VASTAI_URL": f"http://127.0.0.1:{self.to_market.port}",
            "VASTAI_API_KEY": ",".join(ACCOUNTS),
            "VASTAI_API_KEY_NAMES": ",".join(ACCOUNTS.values()),
        }
        self._server: Server | None = None
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=self.name, daemon=True)

    def keep(self) -> None:
        """From now on, start the server whenever it is dead."""
        self._keeper.start()

    @property
    def is_serving(self) -> bool:
        """Whether the process has started and lives."""
        return self._server is not None and self._server.is_alive()

    def kill(self) -> None:
        """Kill it with kill -9. It is started again."""
        if (server := self._server) is not None:
            self._server = None
            server.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process lives."""
        if (server := self._server) is not None and server.is_alive():
            server.signal(number)

    def log(self) -> str:
        """What all its processes have logged."""
        path = self._folder / "serve.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        """Stop it for good. Raises AssertionError if it does not end by SIGTERM."""
        self._ending.set()
        self._keeper.join()
        if (server := self._server) is not None:
            server.__exit__()

    def _keep(self) -> None:
        while not self._ending.is_set():
            if not self.is_serving:
                self._start()
            time.sleep(_PAUSE)

    def _start(self) -> None:
        self.starts += 1
        process = f"{self.name}-{self.starts}"
        url = f"postgresql://{USER}@127.0.0.1:{self.to_database.port}/{DATABASE}?application_name={process}"
        try:
            self._server = Server(self._folder, self._market, **(self._settings | {"GPUPROXY_DATABASE_URL": url}))
        except AssertionError:  # the database can't be used now
            self.failed_starts += 1


class Replicas:
    """All three."""

    def __init__(self, replicas: Sequence[Replica], key: str) -> None:
        self.all = replicas
        self.key = key
        """The key of an admin."""

    def stubs(self) -> "Stubs":
        """Channels to all servers, for one thread."""
        return Stubs([each.address for each in self.all])


class Stubs:
    """One channel to each server. It finds a server again soon after it was started."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._channels = [grpc.insecure_channel(address, _CHANNEL) for address in addresses]
        self.all = [GPUProxyServiceStub(channel) for channel in self._channels]

    def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            channel.close()


def admin_key() -> str:
    """A new key for the first admin of all servers."""
    return f"gpx-{secrets.token_urlsafe(32)}"
