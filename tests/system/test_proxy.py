"""A server whose marketplace can only be reached through an HTTP proxy, as in a company's network."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from gpuproxy.cli import root
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.adapters.proxy import HttpProxy
from tests.system.processes import KIND, UNPACED, Market, Server, until

pytestmark = pytest.mark.long
PASSWORD = "cnryproxy7"


async def test_a_server_rents_through_the_proxy_of_its_environment_and_names_it_without_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Market(tmp_path, *KIND, "--boot-time", "0.1,0.2") as market:
        async with HttpProxy().running() as proxy:
            settings = {
                **UNPACED,
                "GPUPROXY_DATABASE_URL": f"sqlite:///{tmp_path}/books.db",
                "GPUPROXY_VASTAI_URL": market.url.replace("127.0.0.1", "market.test"),
                "HTTP_PROXY": f"http://agent:{PASSWORD}@127.0.0.1:{proxy.port}",
                "NO_PROXY": "10.0.0.1:8080-8090",
                "HTTPS_PROXY": f"socks5h://agent:{PASSWORD}@proxy.test:1080",
                "GPUPROXY_LOG_LEVEL": "debug",
            }
            log = await asyncio.to_thread(_rents_and_releases, tmp_path, market, settings)
    assert any(" http://market.test:" in head for head in proxy.heads)
    assert f"provider=vast.ai proxy=127.0.0.1:{proxy.port}" in log
    assert log.count("proxy_setting_ignored") == 2
    assert "setting=HTTPS_PROXY" in log
    assert "setting=NO_PROXY" in log
    assert PASSWORD not in log
    for name, value in {**settings, "VASTAI_API_KEY": "sandbox-key"}.items():
        monkeypatch.setenv(name, value)
    result = await asyncio.to_thread(CliRunner().invoke, root, ["doctor"])
    used, https, exceptions, last = result.stdout.splitlines()
    assert used == f"vast.ai is reached through the HTTP proxy 127.0.0.1:{proxy.port}"
    assert https.startswith("HTTPS_PROXY is not used: must be http:// or https://")
    assert exceptions.startswith("NO_PROXY is not used: entry 1 must be ")
    assert last == "No problems found."


def test_the_sandbox_starts_whatever_the_variables_say_and_logs_nothing_about_them(tmp_path: Path) -> None:
    wrong = f"socks5h://agent:{PASSWORD}@proxy.test:1080"
    variables = {"HTTPS_PROXY": wrong, "http_proxy": wrong, "NO_PROXY": "10.0.0.1:8080-8090"}
    with Server(tmp_path, None, **variables) as server, server.client() as client:
        until(client.knows_offers)
        log = server.log()
    assert "prox" not in log.replace("gpuproxy", "")


def _rents_and_releases(folder: Path, market: Market, settings: dict[str, str]) -> str:
    """The server's log. It is a real market for the server, for its name is not this machine's."""
    with Server(folder, market, **settings) as server, server.client() as client:
        until(client.knows_offers)
        made = client.call("ReserveGPUs", pb.ReserveGPUsRequest(count=1, max_price=5.0, request_id="one"))
        assert made.reserved_count == 1
        assert len(market.alive()) == 1
        client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=made.reservation_id))
        until(lambda: not client.instances())
        return server.log()
