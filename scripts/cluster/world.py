"""Everything that runs: the network, the database, the market and the servers, in a temporary folder."""

import base64
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from gpuproxy.store.postgres import migrations
from gpuproxy.store.postgres.connecting import connect
from scripts.cluster import observing
from scripts.cluster.callers import QUOTA, SERVERS
from scripts.cluster.forwarding import Network
from scripts.cluster.market import Effects, write_market
from scripts.cluster.postgres import DATABASE, USER, Cluster
from scripts.cluster.servers import Replica, Replicas, admin_key
from tests.system.processes import WHOLE, Market


@dataclass
class World:
    """What runs."""

    folder: Path
    cluster: Cluster
    market: Market
    replicas: Replicas
    effects: Effects

    def market_now(self) -> float:
        """Seconds of the market."""
        return float(self.market.state()["now"])


@contextmanager
def running(scale: float, *options: str, **settings: str) -> Iterator[World]:
    """Start everything, and end it. `options` are the market's, `settings` the servers'."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpuproxy-cluster-")))
        folder.chmod(0o755)  # PostgreSQL runs as another user
        network = stack.enter_context(Network())
        cluster = stack.enter_context(Cluster(folder, network))
        _create_tables(cluster)
        observing.watch_claims(cluster)
        write_market(folder / "market.csv")
        market = stack.enter_context(
            Market(folder, "--time-scale", str(scale), "--market", str(folder / "market.csv"), *WHOLE, *options)
        )
        effects, key = Effects(), admin_key()
        common = {
            "GPUPROXY_DEMAND_KEY_FILE": _secret(folder / "demand-key", base64.b64encode),
            "GPUPROXY_SECRETS_KEY_FILE": _secret(folder / "secrets-key", base64.urlsafe_b64encode),
            "GPUPROXY_HTTP_ADDR": "127.0.0.1:0",
            "GPUPROXY_ADMIN_API_KEY": key,
            "GPUPROXY_TIME_SCALE": str(scale),
            "GPUPROXY_PROJECT_MAX_GPUS": ",".join(f"quota{number}={QUOTA}" for number in range(200)),
            **settings,
        }
        replicas = [
            Replica(number, folder, network, cluster=cluster, market=market, effects=effects, settings=common)
            for number in range(1, SERVERS + 1)
        ]
        stack.callback(_keep_logs, folder)
        for replica in replicas:
            replica.keep()
            stack.callback(replica.end)
        for replica in replicas:
            _wait_for(replica)
        yield World(folder, cluster, market, Replicas(replicas, key), effects)


def _create_tables(cluster: Cluster) -> None:
    """Create the tables before any server starts, so that the observation misses nothing."""
    with connect(f"postgresql://{USER}@127.0.0.1:{cluster.primary.port}/{DATABASE}") as connection:
        migrations.apply(connection)


def _secret(path: Path, encode: Callable[[bytes], bytes]) -> str:
    """A file with a new key, which all servers use."""
    path.write_text(encode(secrets.token_bytes(32)).decode())
    path.chmod(0o600)
    return str(path)


def _wait_for(replica: Replica) -> None:
    while not replica.is_serving:
        if replica.failed_starts > 5:
            raise RuntimeError(f"{replica.name} does not start: {replica.log()[-3000:]}")
        time.sleep(0.2)


def _keep_logs(folder: Path) -> None:
    """Copy the servers' logs to the folder LOGS, if it is set."""
    if not (target := os.environ.get("LOGS")):
        return
    Path(target).mkdir(parents=True, exist_ok=True)
    for log in (*folder.glob("server*/serve.log"), folder / "postgres" / "postgres.log", folder / "sandbox.log"):
        if log.exists():
            (Path(target) / f"{log.parent.name}-{log.name}").write_text(log.read_text(errors="replace"))
