"""The server on real sockets: plans executed as bytes, resets or hangs, and ports that answer at the right times."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.plan import Plan
from gpuproxy.sandbox.server.http_shell import RunningSandbox, serve

KEY = "sandbox-key"


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[RunningSandbox]:
    values = {"port": 0, "machines": 60, "rate_limits": "off", "boot_time": (5.0, 5.0)} | options
    server = await serve(SandboxOptions(**values))
    try:
        yield server
    finally:
        await server.stop()


async def exchange(server: RunningSandbox, method: str, path: str, body: Any = None) -> bytes:
    """All bytes of the answer to one request on its own connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    try:
        return await reader.read(-1)
    finally:
        writer.close()


async def ask(server: RunningSandbox, method: str, path: str, body: Any = None) -> Any:
    head, _, data = (await exchange(server, method, path, body)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    return json.loads(data)


async def rented(server: RunningSandbox, **more: Any) -> int:
    offers = await ask(server, "POST", "/api/v0/bundles/", {"num_gpus": {"eq": "1"}, "limit": 1})
    body = {"image": "x", "disk": 10, **more}
    answer = await ask(server, "PUT", f"/api/v0/asks/{offers['offers'][0]['id']}/", body)
    contract: int = answer["new_contract"]
    return contract


async def instances(server: RunningSandbox) -> list[Any]:
    rows: list[Any] = (await ask(server, "GET", "/sandbox/v1/state"))["instances"]
    return rows


async def test_the_answers_header_is_exactly_what_the_official_command_line_wants() -> None:
    async with running() as server:
        raw = await exchange(server, "POST", "/api/v0/bundles/", {})
    assert b"\r\ncontent-type: application/json\r\n" in raw.partition(b"\r\n\r\n")[0].lower() + b"\r\n"


@pytest.mark.parametrize(("fault", "made"), [("reset_after", 1), ("reset_before", 0), ("refuse_connection", 0)])
async def test_a_reset_create_reaches_the_market_once_and_is_executed_or_not(fault: str, made: int) -> None:
    async with running() as server:
        await ask(server, "POST", "/sandbox/v1/faults", {"call": "create", "fault": fault})
        with pytest.raises(ConnectionResetError):
            await rented(server)
        state = await ask(server, "GET", "/sandbox/v1/state")
    assert state["calls"]["vast.ai"]["create"] == 1
    assert len(state["instances"]) == made


async def test_a_hang_sends_nothing_and_then_breaks_the_connection() -> None:
    async with running() as server:
        await ask(
            server, "POST", "/sandbox/v1/faults", {"call": "user", "fault": "hang_before", "args": {"seconds": 0.05}}
        )
        with pytest.raises(ConnectionResetError):
            await exchange(server, "GET", "/api/v0/users/current")


async def test_a_trickle_arrives_byte_by_byte_and_completely() -> None:
    async with running() as server:
        fault = {"call": "user", "fault": "slow_trickle", "args": {"seconds": 0.0001}}
        await ask(server, "POST", "/sandbox/v1/faults", fault)
        assert (await ask(server, "GET", "/api/v0/users/current"))["id"] == 100_000


async def _greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read(-1)
    finally:
        writer.close()


async def _got(port: int) -> bytes:
    """The first line of the answer to a GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in (b"GET /health HTTP/1.1\r\n", b"Host: x\r\n\r\n"):
            writer.write(part)
            await writer.drain()
        return (await reader.read(-1)).partition(b"\r\n")[0]
    finally:
        writer.close()


@pytest.mark.parametrize(("runtype", "behind"), [("ssh", 0), ("jupyter_direc ssh_direc ssh_proxy", 1)])
async def test_an_ssh_port_sends_a_banner_only_while_its_instance_runs(runtype: str, behind: int) -> None:
    async with running() as server:
        contract = await rented(server, runtype=runtype)
        row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
        with pytest.raises(ConnectionRefusedError):
            await _greeting(row["ssh_port"] + behind)
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
        assert (await _greeting(row["ssh_port"] + behind)).startswith(b"SSH-2.0-")
        await ask(server, "PUT", f"/api/v0/instances/{contract}/", {"state": "stopped"})
        with pytest.raises(ConnectionRefusedError):
            await _greeting(row["ssh_port"] + behind)
        await ask(server, "PUT", f"/api/v0/instances/{contract}/", {"state": "running"})
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
        assert (await _greeting(row["ssh_port"] + behind)).startswith(b"SSH-2.0-")
        await ask(server, "DELETE", f"/api/v0/instances/{contract}/", {})
        with pytest.raises(ConnectionRefusedError):
            await _greeting(row["ssh_port"] + behind)


async def test_without_ssh_a_running_instance_refuses_connections() -> None:
    async with running() as server:
        await ask(server, "POST", "/sandbox/v1/faults", {"call": "create", "fault": "no_ssh"})
        contract = await rented(server)
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
        row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
        assert row["actual_status"] == "running"
        with pytest.raises(ConnectionRefusedError):
            await _greeting(row["ssh_port"])


async def test_a_restarted_server_opens_the_ports_of_running_instances(tmp_path: Path) -> None:
    state = tmp_path / "market.state"
    async with running(state=state) as server:
        contract = await rented(server)
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
    async with running(state=state) as server:
        row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
        assert row["actual_status"] == "running"
        assert (await _greeting(row["ssh_port"])).startswith(b"SSH-2.0-")


async def test_jupyter_answers_at_the_proxys_port_and_ssh_at_the_next_one(tmp_path: Path) -> None:
    state = tmp_path / "market.state"
    runtype = "jupyter_direc ssh_direc ssh_proxy"
    async with running(state=state) as server:
        contracts = [await rented(server, runtype=runtype) for _ in range(8)]
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
    async with running(state=state) as server:
        for contract in contracts:
            row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
            web, direct = (int(row["ports"][name][0]["HostPort"]) for name in ("8080/tcp", "22/tcp"))
            for port in (row["ssh_port"], web):
                assert await _got(port) == b"HTTP/1.1 200 OK"
            for port in (row["ssh_port"] + 1, direct):
                assert (await _greeting(port)).startswith(b"SSH-2.0-")


@pytest.mark.parametrize(("fault", "answers"), [("proxy_down", [False, True]), ("direct_down", [True, False])])
async def test_an_address_that_is_down_refuses_connections_and_the_other_one_answers(
    fault: str, answers: list[bool]
) -> None:
    async with running() as server:
        await ask(server, "POST", "/sandbox/v1/faults", {"call": "create", "fault": fault})
        contract = await rented(server, runtype="ssh_direc ssh_proxy")
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
        row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
        for port, answer in zip((row["ssh_port"], int(row["ports"]["22/tcp"][0]["HostPort"])), answers, strict=True):
            if answer:
                assert (await _greeting(port)).startswith(b"SSH-2.0-")
            else:
                with pytest.raises(ConnectionRefusedError):
                    await _greeting(port)


async def test_a_faster_clock_runs_faster() -> None:
    async with running(time_scale=100_000.0) as server:
        before = (await ask(server, "GET", "/sandbox/v1/state"))["now"]
        assert (await ask(server, "GET", "/sandbox/v1/state"))["now"] > before + 1


def test_a_plan_delivers_an_answer_by_default() -> None:
    assert Plan().delivery == "answer"


async def _started(*arguments: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from gpuproxy.cli.sandbox import sandbox; sandbox()", "--port", "0", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


async def test_the_command_says_where_it_listens_and_ends_on_a_signal(tmp_path: Path) -> None:
    process, line = await _started("--machines", "20", "--state", str(tmp_path / "market.state"))
    try:
        assert line.startswith("sandbox listening on http://127.0.0.1:")
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "market.state").exists()


async def test_the_command_ends_when_its_parent_is_gone() -> None:
    process, _ = await _started("--machines", "20", "--exit-with-parent")
    await process.communicate(b"")  # closes its stdin, as the end of a parent does
    assert process.returncode == 0


async def test_a_mapped_port_answers_gets_and_says_when_the_gpu_is_gone() -> None:
    async with running() as server:
        contract = await rented(server, runtype="ssh_direc ssh_proxy", env={"-p 8000:8000": "1"})
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
        row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
        own, ssh = (int(row["ports"][name][0]["HostPort"]) for name in ("8000/tcp", "22/tcp"))
        assert await _got(own) == b"HTTP/1.1 200 OK"
        assert (await _greeting(ssh)).startswith(b"SSH-2.0-")
        await ask(server, "POST", f"/sandbox/v1/instances/{contract}/kill", {"how": "gpu"})
        assert await _got(own) == b"HTTP/1.1 503 Service Unavailable"
        assert (await _greeting(ssh)).startswith(b"SSH-2.0-")
        await ask(server, "POST", f"/sandbox/v1/instances/{contract}/mute", {"seconds": 0})
        for port in (own, ssh):
            with pytest.raises(ConnectionRefusedError):
                await _greeting(port)
        await ask(server, "POST", f"/sandbox/v1/instances/{contract}/unmute", {})
        assert (await _greeting(ssh)).startswith(b"SSH-2.0-")


async def test_a_connection_that_sends_no_whole_request_gets_no_answer() -> None:
    async with running() as server:
        contract = await rented(server, env={"-p 8000:8000": "1"})
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 10})
        row = (await ask(server, "GET", f"/api/v0/instances/{contract}/"))["instances"]
        reader, writer = await asyncio.open_connection("127.0.0.1", int(row["ports"]["8000/tcp"][0]["HostPort"]))
        writer.write(b"GET /")
        writer.write_eof()
        assert await reader.read(-1) == b""
        writer.close()
