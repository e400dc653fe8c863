"""Start scripts that run for real: which of them, what they find, what is seen of them, and that they end."""

import asyncio
import base64
import gzip
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuproxy import boot
from gpuproxy.boot.packing import packed
from gpuproxy.boot.writing import bare
from gpuproxy.model.demands import VolumeMount
from gpuproxy.sandbox.options import SandboxOptions
from gpuproxy.sandbox.protocol.known_scripts import KNOWN, KNOWN_PACKED, digest, executed, known_part
from gpuproxy.sandbox.server.http_shell import RunningSandbox, serve
from tests.boot.machine import SHELLS, machine
from tests.sandbox.test_http_shell import ask, exchange

pytestmark = pytest.mark.long
KEY = "ssh-ed25519 AAAA me@host"
REPORT = "gpuproxy-boot: version=1 keys=added onstart="
BOTH = boot.script((KEY,), "echo mine")
MOUNT = VolumeMount(volume_id="7", path="/data", nonce="n0nce-1", wait_seconds=5)
FOUNDS = VolumeMount(volume_id="7", path="/mnt/my data", nonce="n0nce-1", wait_seconds=5, founds=True)
LOCKED = boot.script((KEY,), "echo mine", lock=MOUNT)
OURS = {
    "keys": boot.script((KEY,), ""),
    "script": boot.script((), "#!/usr/bin/env python3\nprint(1)"),
    "both": BOTH,
    "odd": boot.script((KEY, "gp_do gp_put onstart <<'gp-end'"), "gp_do gp_put keys <<'gp-end'\ngp-end\nx\n"),
    "a packed one": boot.script((KEY,), packed(BOTH)),
    "lock": boot.script((), "", lock=FOUNDS),
    "lock and keys": boot.script((KEY,), "", lock=MOUNT),
    "lock and script": boot.script((), "echo mine", lock=FOUNDS),
    "all": LOCKED,
    "ending": boot.script((), "", more=(boot.ENDING,)),
    "ending and keys": boot.script((KEY,), "", more=(boot.ENDING,)),
    "ending and script": boot.script((), "echo mine", more=(boot.ENDING,)),
    "ending and both": boot.script((KEY,), "echo mine", more=(boot.ENDING,)),
    "odd shebang": boot.script((), '#!/usr/bin/env -S A=$(id) python3 -c "x"\n'),
}
_SECONDS = 1200  # real; it only ends what hangs


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
    assert known_part(form(OURS[name]))


def test_the_known_digests_are_those_of_the_boot_scripts() -> None:
    assert {_digest(text) for text in OURS.values()} == KNOWN, "the boot script has changed: update known_scripts.KNOWN"
    assert digest([bare("unpack")]) == KNOWN_PACKED, "update known_scripts.KNOWN_PACKED"


def _digest(text: str) -> str:
    read = executed(text)
    assert read is not None
    return digest(read.lines)


@pytest.mark.parametrize("form", [str, packed])
def test_what_may_run_has_our_lines_and_the_keys_but_nothing_of_the_users_script(form: Callable[[str], str]) -> None:
    sent = boot.script((KEY,), "#!/bin/mine\necho mine\n")
    runs = known_part(form(sent))
    assert runs is not None
    assert (KEY in runs, "mine" in runs) == (True, False)
    assert runs.replace("gp-end0", "gp-end") == sent.replace("#!/bin/mine\necho mine\n", "").replace("/bin/mine", "")


@pytest.mark.parametrize("form", [str, packed])
def test_what_may_run_of_a_lock_is_the_nonce_and_the_wait_but_not_the_path(form: Callable[[str], str]) -> None:
    runs = known_part(form(boot.script((), "echo mine", lock=FOUNDS)))
    assert runs is not None
    assert [line for line in runs.splitlines() if line.startswith("gp_lock ")] == ["gp_lock '' n0nce-1 5 founds"]


@pytest.mark.parametrize(
    "script",
    [
        "",
        "echo mine",
        LOCKED.replace(" n0nce-1 5", " $(id) 5"),
        LOCKED.replace(" n0nce-1 5", " n0nce-1 5;id"),
        LOCKED.replace(" n0nce-1 5", " n0nce-1 5 finds"),
        LOCKED.replace(" n0nce-1 5", " n0nce-1 5\ngp_lock '' n0nce-1 5"),
        LOCKED.replace("'/data'", "'/data'$(id)''"),
        LOCKED.replace("'/data'", '"$(id)"'),
        LOCKED.replace("exec 9>>", "exec 9>"),
        "#!/bin/sh\n# gpuproxy-boot 1\necho mine\n",
        f"{BOTH}echo mine\n",
        f"{BOTH}\0",
        BOTH.replace("umask 077", "umask 077; echo mine", 1),
        BOTH.replace("umask 077", "umask 077\r", 1),
        BOTH.replace("once keys", "echo mine\nonce keys"),
        BOTH.replace("once keys", "gp-end\nonce keys"),
        BOTH.replace("<<'gp-end'\nssh", "<<gp-end\n$(echo mine)\nssh"),
        BOTH.replace("<<'gp-end'\nssh", "<<'gp-end\nssh"),
        BOTH.replace(f"{KEY}\n", f"{KEY}\ngp-end\necho mine\n"),
        BOTH.replace(f"{KEY}\n", f"{KEY}\r\n"),
        BOTH.replace(f"{KEY}\n", f"{KEY}\x01\n"),
        BOTH.replace(f"{KEY}\n", f"{KEY}\udc80\n"),
        BOTH.replace(f"{KEY}\n", f"{KEY}\u2028\n"),
        BOTH.replace("part_keys() {", "gp_do gp_put keys <<'gp-end'\ngp-end\npart_keys() {"),
        BOTH.replace("gp_find ''", "gp_find '' $(echo mine)"),
        BOTH.replace("gp_find ''", "gp_find ''; echo 'mine'"),
        BOTH.replace("gp_find ''", "gp_find '$(echo' mine ')'"),
        BOTH.replace("gp_find ''", "gp_find '' '' '' ''"),
        BOTH.replace("gp_find ''", "gp_find '"),
        BOTH.partition("gp_find() {")[0].rpartition("gp-end")[0],
        packed("echo mine"),
        packed(f"{BOTH}echo mine\n"),
        packed(packed("echo mine")),
        packed(packed(BOTH)),
        packed(BOTH).replace("%s H", "%s $(echo mine)H"),
        packed(BOTH).replace("%s H", "%s H; }\ngp() { printf %s H"),
        packed(BOTH).replace("%s H4s", "%s H4t"),
        packed(f"{packed(BOTH)}\necho mine\n"),
        packed("a" * 3_000_000),
        "gp_do gp_put keys <<'gp-end'",
        "\ud800\n\0",
    ],
)
def test_a_script_that_executes_anything_else_is_not_known(script: str) -> None:
    assert known_part(script) is None
    assert script not in (BOTH, packed(BOTH))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("form", [str, packed])
def test_every_shell_reads_odd_text_in_a_known_script_as_data(
    tmp_path: Path, shell: str, form: Callable[[str], str]
) -> None:
    evil = 'touch "$HOME/ran"'
    ends = (
        "gp-end\r",
        " gp-end",
        "gp-end ",
        "\x01gp-end",
        "gp-end\x7f",
        "\ufeffgp-end",
        "gp-end\\",
        "\\",
        "gp-end\u2028",
    )
    odd = [f"{end}\n{evil}\n" for end in (*ends, "x" * 100_000, "gp-end\r\r", "\x81\x88\x04\x1a", "日本", "gp-end1")]
    keys = (KEY, "gp-end0", "gp-end1 ", "$(touch $HOME/ran)", "\\", "ssh-rsa AAAA wörk")
    for number, mine in enumerate([*odd, "".join(odd), "gp-end\n" + "".join(odd), f"#!/bin/sh $(id) `id`\r\n{evil}"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        place = machine(folder, shell)
        runs = known_part(form(boot.script(keys, mine)))
        assert runs is not None
        ran = place.start(runs, env={"GPUPROXY_BOOT_ONSTART": "skip"})
        assert (ran.stdout, ran.stderr) == (f"{REPORT}skipped\n", "")
        assert place.keys.read_text(encoding="utf-8").splitlines() == [key.strip() for key in keys]
        assert not (place.home / "ran").exists()


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


def frame(data: bytes) -> str:
    """A packed boot script with other bytes as its content."""
    return bare("unpack").replace("PACKED", base64.b64encode(data).decode())


def attacks(evil: str) -> dict[str, str]:
    """Start scripts that look like ours, and in which some shell, or the unpacked script, would execute `evil`."""
    mine = boot.script((), "true")
    delimiter = next(line for line in mine.splitlines() if line.endswith("-end"))
    early = mine.replace(f"true\n{delimiter}\n", f"true\n{delimiter}\0\n{evil}\ncat <<'{delimiter}'\n{delimiter}\n")
    assert "\0" in early
    fills = 256 * 1024 - len(mine.encode())
    long = boot.script((), "true" + "y" * fills).encode()
    assert len(long) == 256 * 1024
    return {
        "NUL": early,
        "NUL, packed": packed(early),
        "a second gzip member": frame(gzip.compress(mine.encode()) + gzip.compress(f"{evil}\n".encode())),
        "a second gzip member after keys": frame(
            gzip.compress(boot.script((KEY,), "").encode()) + gzip.compress(evil.encode())
        ),
        "text after a gzip member": frame(gzip.compress(mine.encode()) + f"\n{evil}\n".encode()),
        "text after what is unpacked": frame(gzip.compress(long + f"{evil}\n".encode())),
        "an unfinished gzip member": frame(gzip.compress(mine.encode())[:-8] + gzip.compress(evil.encode())),
        "invalid UTF-8": frame(gzip.compress(mine.encode() + b"\xff\n" + evil.encode())),
    }


@pytest.mark.parametrize("which", attacks(""))
async def test_a_script_that_a_shell_reads_otherwise_than_the_check_runs_nothing_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="ours") as server:
        contract = await rented(server, attacks(f"touch {tmp_path}/ran")[which])
        await printed(server, contract, "was not run")
    assert not (tmp_path / "ran").exists()


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
