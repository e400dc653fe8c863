"""Start scripts that run for real: which of them, what they find, what is seen of them, and that they end."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuproxy import boot
from gpuproxy.boot.packing import packed
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.server.http_shell import RunningSandbox, serve
from gpuproxy.sandbox.server.known_scripts import KNOWN, KNOWN_PACKED, digest, is_known
from tests.sandbox.test_http_shell import ask, exchange

pytestmark = pytest.mark.long
KEY = "ssh-ed25519 AAAA me@host"
REPORT = "gpuproxy-boot: version=1 keys=added onstart="
BOTH = boot.script((KEY,), "echo mine")
OURS = {
    "keys": boot.script((KEY,), ""),
    "script": boot.script((), "#!/usr/bin/env python3\nprint(1)"),
    "both": BOTH,
    "odd": boot.script((KEY, "gpuproxy_put onstart <<'x'"), "gpuproxy_put keys <<'x'\ngpuproxy-end\nx\n"),
}
_SECONDS = 120  # real; it only ends what hangs


@asynccontextmanager
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[RunningSandbox]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    values = {"port": 0, "machines": 60, "rate_limits": "off", "boot_time": (0.0, 0.0)} | options
    server = await serve(SandboxOptions(**values))
    try:
        yield server
    finally:
        await server.stop()
    assert not homes(tmp_path)


async def rented(server: RunningSandbox, script: str, **env: str) -> int:
    offers = await ask(server, "POST", "/api/v0/bundles/", {"num_gpus": {"eq": "1"}, "limit": 1})
    body = {"image": "x", "disk": 10, "onstart": script, "env": env, "runtype": "ssh"}
    made = await ask(server, "PUT", f"/api/v0/asks/{offers['offers'][0]['id']}/", body)
    contract: int = made["new_contract"]
    return contract


async def log_of(server: RunningSandbox, contract: int) -> list[str]:
    """The lines of the instance's log, as vast.ai's API shows them."""
    url = (await ask(server, "PUT", f"/api/v0/instances/request_logs/{contract}/", {"tail": "100"}))["result_url"]
    await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 2})
    raw = await exchange(server, "GET", url[url.index("/instance_logs") :])
    return raw.partition(b"\r\n\r\n")[2].decode().splitlines()


async def printed(server: RunningSandbox, contract: int, text: str) -> list[str]:
    """The log, once it has the text."""
    async with asyncio.timeout(_SECONDS):
        while True:
            lines = await log_of(server, contract)
            if any(text in line for line in lines):
                return lines
            await asyncio.sleep(0.02)


async def true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():  # noqa: ASYNC110 - processes send no events
            await asyncio.sleep(0.02)


def homes(tmp_path: Path) -> Sequence[Path]:
    return sorted(tmp_path.glob("gpuproxy-sandbox-*/*"))


@pytest.mark.parametrize("form", [str, packed])
@pytest.mark.parametrize("name", OURS)
def test_every_boot_script_of_gpu_proxy_is_known(name: str, form: Callable[[str], str]) -> None:
    assert is_known(form(OURS[name]))


def test_the_known_digests_are_those_of_the_boot_scripts() -> None:
    assert {digest(text) for text in OURS.values()} == KNOWN, "the boot script has changed: update known_scripts.KNOWN"
    assert digest(packed(BOTH)) == KNOWN_PACKED, "update known_scripts.KNOWN_PACKED"


@pytest.mark.parametrize(
    "script",
    [
        "",
        "echo mine",
        "#!/bin/sh\n# gpuproxy-boot 1\necho mine\n",
        f"{BOTH}echo mine\n",
        BOTH.replace("umask 077", "umask 077; echo mine", 1),
        BOTH.replace("once keys", "echo mine\nonce keys"),
        BOTH.replace("<<'gpuproxy-end'\nssh", "<<gpuproxy-end\n$(echo mine)\nssh"),
        BOTH.replace(f"{KEY}\n", f"{KEY}\ngpuproxy-end\necho mine\n"),
        BOTH.replace("part_keys() {", "gpuproxy_put keys <<'gpuproxy-end'\ngpuproxy-end\npart_keys() {"),
        packed("echo mine"),
        packed(f"{BOTH}echo mine\n"),
        packed(packed("echo mine")),
        packed(packed(BOTH)),
        packed(BOTH).replace("_text=H", "_text=$(echo mine)H"),
        packed(BOTH).replace("_text=H", "_text=H\ngpuproxy_text=H"),
        packed(BOTH).replace("_text=H4s", "_text=H4t"),
        packed("a" * 3_000_000),
        "gpuproxy_put keys <<'x'",
        "\ud800\n\0",
    ],
)
def test_a_script_that_executes_anything_else_is_not_known(script: str) -> None:
    assert not is_known(script)


async def test_our_part_runs_and_the_users_script_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="ours") as server:
        contract = await rented(server, packed(BOTH), LD_PRELOAD="/no/such/library")
        lines = await printed(server, contract, REPORT)
        assert lines[-1] == f"{REPORT}skipped"
        assert boot.reported(lines) == {"keys": "added", "onstart": "skipped"}
        [home] = homes(tmp_path)
        assert (home / ".ssh" / "authorized_keys").read_text() == f"{KEY}\n"


async def test_a_strangers_script_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="ours") as server:
        contract = await rented(server, f"#!/bin/sh\n# gpuproxy-boot 1\ntouch {tmp_path}/ran\necho mine\n")
        lines = await printed(server, contract, "was not run")
        assert not any("mine" in line for line in lines)
        assert not homes(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("script", ["env | sort; pwd; echo end", boot.script((), "env | sort; pwd; echo end")])
async def test_with_all_every_script_runs_with_the_instances_variables_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DEVELOPER", "s3cret")
    async with running(tmp_path, monkeypatch, boot_scripts="all") as server:
        contract = await rented(server, script, TOKEN="a b", HOME="/root", **{"-p 80:80": "1"})
        lines = await printed(server, contract, "end")
        [home] = homes(tmp_path)
        assert {"TOKEN=a b", f"HOME={home}", str(home)} <= set(lines)
        assert not any("s3cret" in line or line.startswith("-p") for line in lines)


async def test_without_scripts_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SandboxOptions().boot_scripts == "off"
    async with running(tmp_path, monkeypatch) as server:
        contract = await rented(server, BOTH)
        assert [line for line in await log_of(server, contract) if "gpuproxy" in line] == []
        assert not homes(tmp_path)


@pytest.mark.parametrize("how", ["stop", "destroy", "end of the sandbox"])
async def test_what_a_script_leaves_running_ends_with_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    script = "sleep 1000 & setsid sleep 1000 & echo pids $! $$; exec sleep 1000"
    async with running(tmp_path, monkeypatch, boot_scripts="all") as server:
        contract = await rented(server, script)
        lines = await printed(server, contract, "pids")
        pids = [int(word) for word in lines[-1].split()[1:]]
        assert all(_runs(pid) for pid in pids)
        if how == "stop":
            await ask(server, "PUT", f"/api/v0/instances/{contract}/", {"state": "stopped"})
            await true(lambda: not any(map(_runs, pids)))
            assert homes(tmp_path)
        elif how == "destroy":
            await ask(server, "DELETE", f"/api/v0/instances/{contract}/", {})
            await true(lambda: not any(map(_runs, pids)))
            await true(lambda: not homes(tmp_path))
    await true(lambda: not any(map(_runs, pids)))


async def test_each_start_of_an_instance_runs_its_script_again_in_the_same_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="ours") as server:
        contract = await rented(server, BOTH)
        await printed(server, contract, REPORT)
        await ask(server, "PUT", f"/api/v0/instances/{contract}/", {"state": "stopped"})
        await ask(server, "PUT", f"/api/v0/instances/{contract}/", {"state": "running"})
        lines = await printed(server, contract, "keys=present")
        assert boot.reported(lines) == {"keys": "present", "onstart": "skipped"}


async def test_a_script_that_prints_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="all") as server:
        contract = await rented(server, "head -c 300000 /dev/zero | tr '\\0' x; seq 3000; echo end")
        await printed(server, contract, "end")
        kept = server.sandbox.market.printed[contract]
        assert (len(kept), kept[-1], kept[-2]) == (1_000, "end", "3000")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and pid != os.getpid()
