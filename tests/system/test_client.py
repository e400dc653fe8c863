"""The Python client against the real program, killed and restarted in the middle."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from gpuproxy import AsyncClient, Client
from gpuproxy.client import NotEnoughGPUs, NotFound
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.processes import heard
from tests.system.processes import KIND, PATIENCE, UNPACED, Market, Server, until


def address_for_two_lives() -> str:
    """Below the ports that the system gives out, so that nobody is given it while no server has it."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return f"127.0.0.1:{port}"


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with Market(tmp_path, *KIND, "--boot-time", "8,9") as started:
        yield started


@pytest.fixture
def server(tmp_path: Path, market: Market) -> Iterator[Server]:
    with Server(tmp_path, market, GPUPROXY_GRPC_ADDR=address_for_two_lives(), **UNPACED) as started:
        with started.client() as client:
            until(lambda: client.call("ListGPUInstances", pb.ListGPUInstancesRequest()).total_count)
        yield started


def test_the_main_job_goes_on_over_a_killed_server(server: Server, market: Market) -> None:
    with Client(server.address, server.key) as client:
        assert client.list(provider="vast.ai", min_vram=16, max_price=2.0, page_size=5).instances
        with client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0, request_id="train-1") as reservation:
            server.kill()
            server.start()
            reservation.wait_ready(PATIENCE)
            assert {gpu.status for gpu in reservation.instances} == {"active"}
            assert {gpu.contract_id for gpu in reservation.instances} == set(market.alive())
            assert {load.instance_id for load in client.load("server").server_load} == set(market.alive())
            again = client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0, request_id="train-1")
            assert again.id == reservation.id
        assert reservation.view.state in ("releasing", "released")
        until(lambda: not market.alive())


async def test_the_main_job_works_for_asyncio_too(server: Server, market: Market) -> None:
    async with AsyncClient(server.address, server.key) as client:
        async with await client.reserve(2, provider="vast.ai", min_vram=16, max_price=2.0) as reservation:
            await reservation.wait_ready(PATIENCE)
            assert sum(gpu.num_gpus for gpu in reservation.instances) == 2
            first = reservation.instances[0]
            assert (await client.get(first.contract_id)).ssh.host == first.ssh.host
            assert (await client.destroy(first.contract_id)).success
        with pytest.raises(NotEnoughGPUs) as refused:
            await client.reserve(1, gpu_model="GPU of nobody")
        assert refused.value.metadata["requested"] == "1"
        with pytest.raises(NotFound):
            await client.reservation("no-such-reservation")
    until(lambda: not market.alive())


async def test_a_cancelled_call_leaves_nothing_that_the_caller_can_not_name(server: Server, market: Market) -> None:
    async with AsyncClient(server.address, server.key) as client:
        for seconds in (0.05, 0.2, 0.5, 1.0):  # before, between and after the creates of the call
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reserve(2, packing="single", max_price=2.0, wait_for="ready"), seconds)
        await released(client, market)
        call = client.reserve(2, packing="single", max_price=2.0, wait_for="ready", request_id="mine")
        waiting = asyncio.ensure_future(call)
        while not market.alive():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await waiting
        assert "client.find('mine') shows them" in getattr(caught.value, "__notes__", [""])[0]
        kept = await client.find("mine")
        assert kept is not None
        await kept.release()
        await released(client, market)


async def released(client: AsyncClient, market: Market) -> None:
    """Wait until nothing is rented, by the server and by the market."""
    async with asyncio.timeout(PATIENCE):
        while (await client.rented()).instances or market.alive():  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.1)


def test_ctrl_c_releases_what_a_call_of_the_blocking_client_has_rented(server: Server, market: Market) -> None:
    program = (
        "from gpuproxy import Client\n"
        f"with Client({server.address!r}, {server.key!r}) as client:\n"
        "    client.reserve(2, packing='single', max_price=2.0, wait_for='ready')\n"
    )
    with heard(signal.SIGINT):
        process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    until(market.alive)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -signal.SIGINT
    assert said.endswith("KeyboardInterrupt\n"), said
    with Client(server.address, server.key) as client:
        until(lambda: not client.rented().instances)
    assert not market.alive()


def test_a_request_id_names_the_reservation_of_the_keys_own_project_also_for_an_admin(
    server: Server, market: Market, tmp_path: Path
) -> None:
    names = ("nightly", "every night", "vast-nightly")  # the last two can't be ids of reservations
    with Client(server.address, server.key) as admin, Client(server.address, key_of("team", tmp_path)) as team:
        mine = {name: admin.reserve(1, max_price=2.0, request_id=name).id for name in names}
        theirs = {name: team.reserve(1, max_price=2.0, request_id=name) for name in (*names, "theirs alone", "alone")}
        for name in names:
            assert (found := admin.find(name)) is not None
            assert found.id == mine[name]
            assert (found := team.find(name)) is not None
            assert found.id == theirs[name].id
            released = command(tmp_path, "release", name, "--yes", "--server", server.address)
            assert released.stdout.startswith(mine[name]), released.stderr
        for name in ("theirs alone", "alone"):
            assert admin.find(name) is None
            refused = command(tmp_path, "release", name, "--yes", "--server", server.address)
            assert refused.returncode == 1, refused.stdout
        kept = {gpu.contract_id for each in theirs.values() for gpu in each.instances}
        assert not {each.refresh().view.state for each in theirs.values()} & {"releasing", "released", "failed"}
        until(lambda: set(market.alive()) == kept)


def key_of(project: str, folder: Path) -> str:
    """A new key of a project."""
    made = command(folder, "keys", "create", "one", "--project", project, "--json")
    return str(json.loads(made.stdout)["api_key"])


def command(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command line with the local admin key."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith(("GPUPROXY_", "VASTAI_"))}
    own = {"GPUPROXY_DATABASE_URL": f"sqlite:///{folder}/books.db"}
    line = [sys.executable, "-m", "gpuproxy", *words]
    return subprocess.run(line, cwd=folder, env=outer | own, capture_output=True, text=True, check=False)
