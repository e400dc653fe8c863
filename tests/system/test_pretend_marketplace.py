"""A marketplace is one package and one entry point: the documentation's example, installed beside a real server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.moon import EXAMPLE, KEY, StandIn
from tests.system.processes import Server, until

ENTRY_POINT = "[gpuproxy.providers]\nmoon.example = moon_marketplace:DESCRIPTOR\n"


class OwnServer(Server):
    """`gpuproxy serve` with the settings of the test and no others."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self._directory = directory
        self._settings = settings_in(directory, **settings)
        self._options: list[str] = []
        self.start()


def settings_in(directory: Path, **settings: str) -> dict[str, str]:
    return {
        "GPUPROXY_GRPC_ADDR": "127.0.0.1:0",
        "GPUPROXY_HTTP_ADDR": "127.0.0.1:0",
        "GPUPROXY_DATABASE_URL": f"sqlite:///{directory}/books.db",
        **settings,
    }


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the package and its entry point, as an installer leaves them."""
    folder = tmp_path / "site"
    info = folder / "moon_marketplace-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "moon_marketplace.py").write_bytes((EXAMPLE / "moon_marketplace.py").read_bytes())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moon-marketplace\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINT)
    return folder


@pytest.fixture
def moon() -> Iterator[tuple[StandIn, str]]:
    """The pretend marketplace on a port, and its address."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said = stand_in.answer(self.command, self.path, self.headers, body)
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield stand_in, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_installed_package_is_listed_rented_and_released_through_the_api(
    tmp_path: Path, installed: Path, moon: tuple[StandIn, str]
) -> None:
    stand_in, url = moon
    settings = {"MOON_API_KEY": KEY, "MOON_API_KEY_NAMES": "crater", "GPUPROXY_MOON_URL": url}
    with OwnServer(tmp_path, PYTHONPATH=str(installed), **settings) as server, server.client() as client:
        until(client.knows_offers)
        listing = pb.ListGPUInstancesRequest(provider="moon.example")
        until(lambda: client.call("ListGPUInstances", listing).total_count == len(stand_in.offers))
        market = client.call("ListGPUInstances", listing)
        assert {offer.provider for offer in market.instances} == {"moon.example"}
        assert {offer.id for offer in market.instances} == {f"moon-{offer['id']}" for offer in stand_in.offers}

        wanted = pb.ReserveGPUsRequest(count=4, provider="moon.example", max_price=1.0)
        answer = client.call("ReserveGPUs", wanted)
        assert [(each.provider, each.num_gpus) for each in answer.reserved_instances] == [("moon.example", 2)] * 2
        assert {each.contract_id for each in answer.reserved_instances} == set(stand_in.rented)
        assert {each.account for each in answer.reserved_instances} == {"crater"}
        assert len({each["label"] for each in stand_in.rented.values()} - {""}) == 2

        reservation = answer.reservation_id
        client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=reservation))
        until(lambda: not stand_in.rented)
        until(lambda: not client.instances())


def test_without_the_entry_point_its_settings_are_unknown_and_nothing_starts(
    tmp_path: Path, installed: Path, moon: tuple[StandIn, str]
) -> None:
    (installed / "moon_marketplace-1.0.dist-info" / "entry_points.txt").unlink()
    keys = {"MOON_API_KEY": KEY}
    code, said = refused(tmp_path, PYTHONPATH=str(installed), GPUPROXY_MOON_URL=moon[1], **keys)
    assert (code, said) == (2, "GPUPROXY_MOON_URL is set but GPU Proxy reads no setting of that name: not started.")
    code, said = refused(tmp_path, PYTHONPATH=str(installed), **keys)
    assert code == 2
    assert said.startswith("No provider key is set: not started.")


def refused(directory: Path, **settings: str) -> tuple[int, str]:
    """The exit code and the last words of a start that fails."""
    ended = subprocess.run(
        [sys.executable, "-m", "gpuproxy", "serve"],
        cwd=directory,
        env=settings_in(directory, PATH="", **settings),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    return ended.returncode, ended.stderr.strip().splitlines()[-1]
