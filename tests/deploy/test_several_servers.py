"""Two real servers on one PostgreSQL behind nginx and Envoy, with the lines of two upstreams in their files."""

import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from gpuproxy import Client
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests import postgres
from tests.deploy.programs import FILES
from tests.deploy.proxies import CHECKS, checked, proxy
from tests.ports import free_port
from tests.system.processes import KIND, UNPACED, Market, Server, until

pytestmark = pytest.mark.long
KINDS = tuple(CHECKS)
NAMES = {"nginx": "nginx.conf", "envoy": "envoy.yaml"}
_KEY = "gpx-" + "k" * 43
_PAIR = ((9091, 8081),)


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def offers_are_known(server: Server) -> bool:
    with server.client() as client:
        return client.knows_offers()


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[Market, list[Server]]]:
    """On one database and in one folder: the second one finds the key files of the first, as in compose.yaml."""
    settings = UNPACED | {
        "GPUPROXY_DATABASE_URL": postgres.server().create(),
        "GPUPROXY_ALLOW_UNSAFE_POSTGRES": "true",
        "GPUPROXY_ADMIN_API_KEY": _KEY,
    }
    with ExitStack() as stack:
        market = stack.enter_context(Market(folder, *KIND))
        servers = [stack.enter_context(Server(folder, market, **settings)) for _ in range(2)]
        until(lambda: all(offers_are_known(each) for each in servers))
        yield market, servers


@dataclass(frozen=True, slots=True)
class Through:
    """Clients on the other side of the proxy."""

    client: Client
    url: str
    context: ssl.SSLContext

    def get(self, path: str) -> int:
        request = urllib.request.Request(self.url + path, headers={"X-API-Key": _KEY})  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=300, context=self.context) as answer:  # noqa: S310 - loopback
            answer.read()
            return int(answer.status)

    def is_healthy(self) -> bool:
        """False while the proxy sends calls to a server that is gone; nothing may be wrong with it otherwise."""
        try:
            return all(self.get("/healthz") == 200 for _ in range(4))
        except urllib.error.HTTPError as error:
            assert error.code in {502, 503}
            return False


@contextmanager
def through(kind: str, folder: Path, servers: list[Server]) -> Iterator[Through]:
    ports = [(port_of(each.address), port_of(each.http)) for each in servers]
    with proxy(kind, folder, *ports[0], others=ports[1:]) as (port, pki):
        credentials = grpc.ssl_channel_credentials(pki.client().ca)
        context = ssl.create_default_context(cadata=pki.client().ca.decode())
        with Client(f"localhost:{port}", _KEY, credentials=credentials, timeout=300) as client:
            yield Through(client, f"https://localhost:{port}", context)


def calls_of(server: Server) -> int:
    """How many calls a server has answered, by its own count."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=300) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("gpuproxy_rpcs_total{"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sampled(0)
def test_calls_go_on_when_one_of_two_servers_is_killed(kind: str, tmp_path: Path) -> None:
    with two_servers(tmp_path) as (market, servers), through(kind, tmp_path, servers) as proxied:
        before = [calls_of(each) for each in servers]
        for _ in range(12):
            proxied.client.rented()
            assert proxied.get("/api/v1/gpu/instances?state=rented") == 200
        assert all(calls_of(each) > count for each, count in zip(servers, before, strict=True))
        first = proxied.client.reserve(1, max_price=5.0)
        servers[0].kill()
        second = proxied.client.reserve(2, max_price=5.0)
        assert {each.reservation_id for each in proxied.client.call(
            proxied.client.stub.ListReservations, pb.ListReservationsRequest()).reservations
        } >= {first.id, second.id}  # fmt: skip
        for _ in range(12):
            proxied.client.rented()
        until(proxied.is_healthy)
        assert [proxied.get("/healthz") for _ in range(12)] == [200] * 12
        assert len(market.alive()) == 3
        first.release()
        second.release()
        until(lambda: not market.alive())


@pytest.mark.parametrize("kind", KINDS)
def test_each_program_accepts_two_servers(kind: str, tmp_path: Path) -> None:
    text = (FILES / NAMES[kind]).read_text()
    checked(kind, tmp_path, text, others=_PAIR)
    written = (tmp_path / ("gpuproxy.conf" if kind == "nginx" else "envoy.yaml")).read_text()
    assert all(written.count(str(port)) == 1 for port in _PAIR[0])


class Deaf(threading.Thread):
    """Takes connections, reads what comes first, and closes them: a server that dies in the middle of a call."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", port))
        self.requests: list[bytes] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                self.requests.append(connection.recv(65536))


@pytest.mark.parametrize(("method", "sent"), [("POST", 1), ("PATCH", 1), ("GET", 2)])
@pytest.mark.sampled(0)
def test_nginx_sends_a_call_that_rents_to_one_server_only(method: str, sent: int, tmp_path: Path) -> None:
    """Although the first server closed the connection. A GET is asked again, which shows that the test could see it."""
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        deaf = [Deaf(port) for port in ports]
        for each in deaf:
            stack.enter_context(closing(each.socket))
        port, pki = stack.enter_context(
            proxy("nginx", tmp_path, free_port(), ports[0], others=[(free_port(), ports[1])])
        )
        context = ssl.create_default_context(cadata=pki.client().ca.decode())
        request = urllib.request.Request(f"https://localhost:{port}/api", b"" if sent == 1 else None, method=method)
        with pytest.raises(urllib.error.HTTPError, match="502"):
            urllib.request.urlopen(request, timeout=300, context=context)  # noqa: S310 - loopback
        assert sum(len(each.requests) for each in deaf) == sent
