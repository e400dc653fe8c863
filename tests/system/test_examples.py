"""The examples of the documentation against the real program: addresses and key replaced, and nothing else."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.system.processes import KIND, UNPACED, Market, Server, until

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("README.md", "docs/GRPC.md", "docs/examples/README.md")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    directory = tmp_path_factory.mktemp("market")
    with Market(directory, *KIND, "--boot-time", "0.1,0.2") as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, market: Market) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), market, **UNPACED) as started:
        with started.client() as client:
            until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count)
        yield started


def blocks(language: str) -> list[tuple[str, str]]:
    """Each block of a language, with where it stands."""
    found = []
    for source in SOURCES:
        text = (ROOT / source).read_text(encoding="utf-8")
        texts = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found += [(f"{source} {number}", block) for number, block in enumerate(texts, 1)]
    return found


def run(server: Server, directory: Path, *command: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"GPUPROXY_SERVER": server.address, "GPUPROXY_API_KEY": server.key, "PYTHONPATH": str(ROOT), "PATH": path}
    done = subprocess.run(
        command, cwd=directory, env=os.environ | own, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(("where", "text"), blocks("python"), ids=lambda value: value if len(value) < 40 else "")
def test_a_python_example_works_and_gives_back_what_it_rents(
    server: Server, market: Market, tmp_path: Path, where: str, text: str
) -> None:
    script = text.replace('"localhost:9090"', repr(server.address))
    script = re.sub(r"\b(KEY|api_key)\)", f"{server.key!r})", script)
    assert run(server, tmp_path, sys.executable, "-W", "error", "-c", script)
    until(lambda: not market.alive())


@pytest.mark.parametrize(("where", "text"), blocks("bash"), ids=lambda value: value if len(value) < 40 else "")
def test_a_shell_example_works(server: Server, market: Market, tmp_path: Path, where: str, text: str) -> None:
    tool = re.split(r"\s", text, maxsplit=1)[0]
    if tool != "gpuproxy" and shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    fail = 'curl() { command curl --fail --silent --show-error "$@"; }\ngpuproxy() { python -m gpuproxy "$@"; }\n'
    script = text.replace("localhost:9090", server.address).replace("localhost:8080", server.http)
    assert run(server, tmp_path, "/bin/bash", "-euc", fail + script)
    with server.client() as client:
        for one in client.call("ListReservations", pb.ListReservationsRequest()).reservations:
            client.call("ReleaseReservation", pb.ReleaseReservationRequest(reservation_id=one.reservation_id))
    until(lambda: not market.alive())


def test_there_is_an_example_in_each_language_that_the_page_promises() -> None:
    assert len(blocks("python")) >= 4
    assert len(blocks("bash")) >= 3
