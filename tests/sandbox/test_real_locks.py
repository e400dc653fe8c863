"""The real boot script with a lock, in shells on one folder that stands for the volume of several instances."""

from pathlib import Path
from typing import Any

import pytest

from gpuproxy import boot
from gpuproxy.boot.packing import packed
from gpuproxy.model.demands import VolumeMount
from gpuproxy.sandbox.server.http_shell import RunningSandbox
from tests.sandbox.test_boot_scripts import homes, printed, running, true
from tests.sandbox.test_http_shell import ask

pytestmark = pytest.mark.long
KEY = "ssh-ed25519 AAAA me@host"
MOUNT = VolumeMount(volume_id="0", path="/data", nonce="n0nce-1", wait_seconds=0)
FOUNDS = VolumeMount(volume_id="0", path="/data", nonce="n0nce-1", wait_seconds=0, founds=True)
HELD = "lock=held"
BODY = {"image": "x", "disk": 10, "runtype": "ssh"}


async def offers(server: RunningSandbox, machine: int | None = None) -> list[dict[str, Any]]:
    query = {"num_gpus": {"eq": "1"}, "disable_bundling": True, "verified": "any"}
    query |= {"gpu_frac": {"eq": 0.5}} if machine is None else {"machine_id": {"eq": machine}}
    found: list[dict[str, Any]] = (await ask(server, "POST", "/api/v0/bundles/", query))["offers"]
    return found


async def with_volume(server: RunningSandbox) -> tuple[int, int]:
    """A new volume and its machine, which has two GPUs."""
    for offer in await offers(server):
        if len(await offers(server, offer["machine_id"])) == 2:
            made = await ask(server, "PUT", "/api/v0/volumes/", {"id": offer["avail_vol_ask_id"], "size": 10})
            return int(made["volume_name"].removeprefix("V.")), offer["machine_id"]
    raise AssertionError("no machine with two free GPUs")


async def rented(server: RunningSandbox, machine: int, volume: int, script: str) -> int:
    offer = (await offers(server, machine))[0]["id"]
    mount = {"create_new": False, "volume_id": volume, "mount_path": "/data"}
    made = await ask(server, "PUT", f"/api/v0/asks/{offer}/", {**BODY, "onstart": script, "volume_info": mount})
    contract: int = made["new_contract"]
    return contract


async def of(server: RunningSandbox, contract: int, *names: str) -> list[Any]:
    rows = (await ask(server, "GET", "/sandbox/v1/state"))["instances"]
    row = next(each for each in rows if each["id"] == str(contract))
    return [row[name] for name in names]


async def most(server: RunningSandbox) -> tuple[int, int]:
    [row] = (await ask(server, "GET", "/sandbox/v1/state"))["volumes"]
    return row["most_writers"], row["most_workloads"]


async def set_to(server: RunningSandbox, contract: int, state: str) -> None:
    await ask(server, "PUT", f"/api/v0/instances/{contract}/", {"state": state})


@pytest.mark.parametrize("mode", ["ours", "all"])
async def test_of_two_instances_with_one_volume_only_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    marks = tmp_path / "marks"
    onstart = f"echo begin >>{marks}\necho begun\nexec sleep 1000\n"
    async with running(tmp_path, monkeypatch, boot_scripts=mode) as server:
        volume, machine = await with_volume(server)
        first = await rented(server, machine, volume, packed(boot.script((KEY,), onstart, lock=FOUNDS)))
        await printed(server, first, HELD)
        assert await of(server, first, "lock", "workload") == ["held", True]
        if mode == "all":
            await printed(server, first, "begun")
        second = await rented(server, machine, volume, packed(boot.script((KEY,), onstart, lock=MOUNT)))
        assert "onstart=not_run" in (await printed(server, second, "lock=lock_held"))[-1]
        assert await of(server, second, "lock", "workload", "writer") == ["lock_held", False, True]
        await set_to(server, second, "stopped")
        await set_to(server, first, "stopped")
        assert await of(server, first, "lock", "workload") == ["", False]
        await set_to(server, second, "running")
        await printed(server, second, HELD)
        assert await of(server, second, "lock", "workload") == ["held", True]
        assert await most(server) == (2, 1)
        if mode == "all":
            await printed(server, second, "begun")
    if mode == "all":
        assert marks.read_text() == "begin\n" * 2
    else:
        assert not marks.exists()


async def test_a_lock_without_its_volume_is_not_taken_in_any_folder_of_this_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="all") as server:
        offer = (await offers(server))[0]["id"]
        script = boot.script((), "echo mine", lock=FOUNDS)
        made = await ask(server, "PUT", f"/api/v0/asks/{offer}/", {**BODY, "onstart": script})
        lines = await printed(server, made["new_contract"], "lock=wrong_volume")
        assert "mine" not in lines


async def test_the_folder_of_a_volume_goes_with_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path, monkeypatch, boot_scripts="ours") as server:
        volume, machine = await with_volume(server)
        contract = await rented(server, machine, volume, boot.script((), "echo mine", lock=FOUNDS))
        await printed(server, contract, HELD)
        await ask(server, "DELETE", f"/api/v0/instances/{contract}/", {})
        await true(lambda: [home.name for home in homes(tmp_path)] == [f"V.{volume}"])
        await ask(server, "POST", "/sandbox/v1/clock", {"advance_seconds": 31})
        await ask(server, "DELETE", f"/api/v0/volumes/?id={volume}", {})
        await true(lambda: not homes(tmp_path))


async def test_after_a_restart_of_the_sandbox_the_volume_is_still_the_pools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"boot_scripts": "ours", "state": tmp_path / "market.state"}
    async with running(tmp_path, monkeypatch, **kept) as server:
        volume, machine = await with_volume(server)
        first = await rented(server, machine, volume, boot.script((), "echo mine", lock=FOUNDS))
        await printed(server, first, HELD)
        await set_to(server, first, "stopped")
    async with running(tmp_path, monkeypatch, **kept) as server:
        second = await rented(server, machine, volume, boot.script((), "echo mine", lock=MOUNT))
        await printed(server, second, HELD)
        assert await of(server, second, "workload") == [True]
