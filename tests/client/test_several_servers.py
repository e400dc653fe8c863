"""One client and several servers: calls are spread, and go on while one of them is down or not ready."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gpuproxy import AsyncClient, Client
from gpuproxy.cli import root
from gpuproxy.cli.connection import _key_file
from gpuproxy.client import WrongArgument
from gpuproxy.client.channel import channel_options, endpoint, service_config
from gpuproxy.client.servers import addresses_of, is_several, target_of
from gpuproxy.v1.gpuproxy_pb2_grpc import add_GPUProxyServiceServicer_to_server
from tests.cli.world import KEY, World

CALLS = 20


@dataclass
class Served:
    """A server with a health service, as the real one has it."""

    address: str
    world: World
    server: grpc.Server
    health: health.HealthServicer

    def end(self) -> None:
        self.server.stop(0).wait()

    def drain(self, grace: float) -> None:
        """As the real server stops: first it is not serving, then it ends."""
        self.health.enter_graceful_shutdown()
        self.server.stop(grace).wait()

    def ready(self, is_ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if is_ready else status.NOT_SERVING)


@contextmanager
def one() -> Iterator[Served]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        world, healths = World(), health.HealthServicer()
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        add_GPUProxyServiceServicer_to_server(world, server)
        health_pb2_grpc.add_HealthServicer_to_server(healths, server)
        port = server.add_insecure_port("127.0.0.1:0")
        made = Served(f"127.0.0.1:{port}", world, server, healths)
        made.ready(True)
        server.start()
        try:
            yield made
        finally:
            server.stop(0).wait()


@pytest.fixture
def two() -> Iterator[tuple[Served, Served]]:
    with ExitStack() as stack:
        yield stack.enter_context(one()), stack.enter_context(one())


def spread(client: Client, servers: tuple[Served, ...]) -> list[int]:
    """Make some calls; returns how many of them each server got."""
    before = [len(each.world.listed) for each in servers]
    for _ in range(CALLS):
        client.list()
    return [len(each.world.listed) - had for each, had in zip(servers, before, strict=True)]


def until_both_are_used(client: Client, two: tuple[Served, Served]) -> None:
    """The connections are made one after the other."""
    while not all(spread(client, two)):
        pass


def together(two: tuple[Served, Served]) -> str:
    return ",".join(each.address for each in two)


def test_calls_are_spread_over_all_servers(two: tuple[Served, Served]) -> None:
    with Client(together(two), KEY) as client:
        until_both_are_used(client, two)
        assert spread(client, two) == [CALLS // 2, CALLS // 2]


async def test_calls_of_the_asynchronous_client_are_spread_too(two: tuple[Served, Served]) -> None:
    async with AsyncClient(together(two), KEY) as client:
        while not all(each.world.listed for each in two):
            await client.list()
        had = [len(each.world.listed) for each in two]
        for _ in range(CALLS):
            await client.list()
    assert [len(each.world.listed) for each in two] == [before + CALLS // 2 for before in had]


def test_calls_to_one_server_stay_there(two: tuple[Served, Served]) -> None:
    with Client(two[0].address, KEY) as client:
        assert spread(client, two) == [CALLS, 0]


def test_calls_go_on_when_a_server_dies(two: tuple[Served, Served]) -> None:
    with Client(together(two), KEY) as client:
        until_both_are_used(client, two)
        two[0].end()
        assert spread(client, two) == [0, CALLS]


def test_calls_go_on_at_the_first_start_while_a_server_is_down(two: tuple[Served, Served]) -> None:
    two[0].end()
    with Client(together(two), KEY) as client:
        assert spread(client, two) == [0, CALLS]


def test_no_call_is_sent_to_a_server_that_is_not_ready(two: tuple[Served, Served]) -> None:
    two[0].ready(False)
    with Client(together(two), KEY) as client:
        assert spread(client, two) == [0, CALLS]
        two[0].ready(True)
        until_both_are_used(client, two)


def test_rentals_are_rented_once_although_a_server_dies_with_the_answer(two: tuple[Served, Served]) -> None:
    """The repeat goes to the other server, with the same request id."""

    def die(context: grpc.ServicerContext) -> None:
        if not dead:
            dead.append(True)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")

    dead: list[bool] = []
    for each in two:
        each.world.during_reserve = die
    with Client(together(two), KEY) as client:
        until_both_are_used(client, two)
        assert client.reserve(1).id == "res-1"
    requests = [request.request_id for each in two for request in each.world.requests]
    assert (len(requests), len(set(requests))) == (2, 1)
    assert all(len(each.world.requests) == 1 for each in two)


def run(server: str, *words: str, **env: str) -> Result:
    return CliRunner().invoke(root, ["list", "--server", server, *words], env={"GPUPROXY_API_KEY": KEY, **env})


def test_commands_take_several_servers(two: tuple[Served, Served]) -> None:
    for _ in range(2):
        assert "RTX 4090" in run(together(two)).output
        two[0].end()


def test_a_command_names_all_servers_if_none_answers(two: tuple[Served, Served]) -> None:
    for each in two:
        each.end()
    result = run(together(two))
    assert (result.exit_code, f"Nothing answers at {together(two)}." in result.output) == (3, True)


@pytest.mark.parametrize("list_", ["gpus-1:9090,gpus-2:9090", "127.0.0.1:9090,[::1]:9090", "10.0.0.1:9090,gpus:9090"])
def test_a_list_that_grpc_cannot_use_is_wrong_usage(list_: str) -> None:
    result = run(list_)
    assert (result.exit_code, "for names, use dns:///name:9090" in result.output) == (2, True)
    with pytest.raises(WrongArgument, match="dns:///name:9090"):
        Client(list_, KEY)


@pytest.mark.parametrize("list_", ["10.0.0.1:9090,", "10.0.0.1,10.0.0.2:9090", "10.0.0.1:9090;10.0.0.2:9090"])
def test_a_list_without_an_address_or_a_port_is_wrong_usage(list_: str) -> None:
    assert run(list_).exit_code == 2
    if "," in list_:
        with pytest.raises(WrongArgument):
            Client(list_, KEY)


def test_several_servers_with_tls_need_one_name(tmp_path: Path) -> None:
    with pytest.raises(WrongArgument, match="with TLS"):
        Client("10.0.0.1:9090,10.0.0.2:9090", KEY, credentials=grpc.ssl_channel_credentials())
    result = run("10.0.0.1:9090,10.0.0.2:9090", "--tls")
    assert (result.exit_code, "with TLS, several servers need one name" in result.output) == (2, True)
    assert target_of("dns:///gpus:9090", tls=True) == "dns:///gpus:9090"


@pytest.mark.parametrize(
    ("server", "target", "several"),
    [
        ("gpus:9090", "gpus:9090", False),
        ("127.0.0.1:9090", "127.0.0.1:9090", False),
        ("10.0.0.1:9090, 10.0.0.2:9091", "ipv4:10.0.0.1:9090,10.0.0.2:9091", True),
        ("ipv4:10.0.0.1:9090,10.0.0.2:9091", "ipv4:10.0.0.1:9090,10.0.0.2:9091", True),
        ("[fd00::1]:9090,[fd00::2]:9090", "ipv6:[fd00::1]:9090,[fd00::2]:9090", True),
        ("dns:///gpus:9090", "dns:///gpus:9090", True),
        ("unix:/run/a,b", "unix:/run/a,b", False),
    ],
)
def test_each_kind_of_address_is_one_target(server: str, target: str, several: bool) -> None:
    assert (target_of(server, tls=False), is_several(server)) == (target, several)


def test_only_several_servers_get_the_balancing_of_the_service_config() -> None:
    def config(server: str, *, repeats: bool) -> object:
        found = dict(channel_options(server, repeats=repeats)).get("grpc.service_config")
        return json.loads(str(found)) if found else None

    plain, balancing = json.loads(service_config()), {"round_robin": {}}
    assert config("gpus:9090", repeats=True) == plain
    assert config("gpus:9090", repeats=False) is None
    for server in ("dns:///gpus:9090", "10.0.0.1:1,10.0.0.2:1"):
        only = {"loadBalancingConfig": [balancing], "healthCheckConfig": {"serviceName": ""}}
        assert config(server, repeats=True) == plain | only
        assert config(server, repeats=False) == only


@pytest.mark.parametrize(
    ("server", "sent"),
    [
        ("127.0.0.1:1,127.0.0.2:2", True),
        ("127.0.0.1:1,10.0.0.2:2", False),
        ("10.0.0.2:2,127.0.0.1:1", False),
        ("ipv4:10.0.0.2:2,127.0.0.1:1", False),
    ],
)
def test_the_local_admin_key_is_sent_only_if_all_servers_are_here(server: str, sent: bool, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("gpx-local")
    assert (_key_file({"GPUPROXY_ADMIN_KEY_FILE": str(tmp_path / "key")}, server) is not None) == sent


def test_several_servers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPROXY_SERVER", "10.0.0.1:9090,10.0.0.2:9090")
    assert addresses_of(endpoint("", KEY).server) == ("10.0.0.1:9090", "10.0.0.2:9090")
