"""The model of the boot script's lock: who has it, who waits, and what is counted, without real scripts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpuproxy import boot
from gpuproxy.boot.packing import packed
from gpuproxy.model.demands import VolumeMount
from gpuproxy.sandbox.server.in_process import InProcessProbe
from tests.sandbox.shop import Shop
from tests.sandbox.test_volumes import linked, made

MOUNT = VolumeMount(volume_id="0", path="/data", nonce="n0nce-1", wait_seconds=60)
FOUNDS = replace(MOUNT, founds=True)
WAITING = "gpuproxy-boot: version=1 lock=waiting"
ECHO = "echo mine\n"


class Pair:
    """A shop with one machine of two GPUs, and a volume there."""

    def __init__(self, **options: Any) -> None:
        self.shop = Shop(**options)
        self.machine = self.shop.machine(2)
        self.volume = made(self.shop, self.shop.chunks(self.machine)[0])

    def rent(
        self, mount: VolumeMount | None = MOUNT, onstart: str = ECHO, *, keys: Sequence[str] = (), **body: Any
    ) -> int:
        """An instance with the volume, on the next free GPU."""
        script = boot.script(keys, onstart, lock=mount)
        offer = next(
            each["id"] for each in self.shop.chunks(self.machine) if each["rentable"] and each["num_gpus"] == 1
        )
        return self.shop.rented(offer, **{"onstart": packed(script) if script else "", **linked(self.volume), **body})

    def standby(self, mount: VolumeMount | None = MOUNT) -> int:
        """A stopped instance on the other GPU."""
        return self.rent(mount, target_state="stopped")

    def of(self, contract: int, *names: str) -> list[Any]:
        row = next(each for each in self.shop.state()["instances"] if each["id"] == str(contract))
        return [row[name] for name in names]

    def most(self) -> tuple[int, int]:
        [row] = self.shop.state()["volumes"]
        return row["most_writers"], row["most_workloads"]

    def log(self, contract: int) -> list[str]:
        return list(self.shop.sandbox.market.printed.get(contract, ()))


def test_the_first_machine_founds_the_volume_and_runs_its_workload() -> None:
    pair = Pair()
    primary = pair.rent(FOUNDS)
    assert pair.of(primary, "lock", "workload", "writer") == ["", False, False]
    pair.shop.wait(31)
    assert pair.of(primary, "lock", "workload", "writer") == ["held", True, True]
    assert pair.log(primary) == [WAITING, "gpuproxy-boot: version=1 lock=held onstart=started"]
    assert pair.most() == (1, 1)


def test_a_stop_a_dead_container_and_a_destroy_release_the_lock() -> None:
    pair = Pair()
    primary = pair.rent(FOUNDS)
    standby = pair.standby()
    pair.shop.wait(31)
    for end, begin in ((primary, standby), (standby, primary)):
        pair.shop.manage(end, state="stopped")
        assert pair.of(end, "lock", "workload", "writer") == ["", False, False]
        pair.shop.manage(begin, state="running")
        pair.shop.wait(31)
        assert pair.of(begin, "lock", "workload") == ["held", True]
    pair.shop.control("POST", f"instances/{primary}/kill", {"how": "container"})
    assert pair.of(primary, "lock", "workload") == ["", False]
    pair.shop.manage(standby, state="running")
    pair.shop.wait(31)
    assert pair.of(standby, "lock") == ["held"]
    pair.shop.destroy(standby)
    assert pair.of(standby, "lock", "workload") == ["", False]
    assert pair.most() == (1, 1)


def test_a_second_machine_waits_and_works_when_the_first_one_stops() -> None:
    pair = Pair()
    primary, standby = pair.rent(FOUNDS), pair.standby()
    pair.shop.wait(31)
    pair.shop.manage(standby, state="running")
    pair.shop.wait(31)
    assert pair.of(standby, "lock", "workload", "writer") == ["waiting", False, True]
    assert pair.log(standby) == [WAITING]
    pair.shop.wait(20)
    pair.shop.manage(primary, state="stopped")
    assert pair.of(standby, "lock", "workload") == ["held", True]
    assert pair.most() == (2, 1)


def test_the_wait_is_bounded_and_then_the_workload_does_not_run() -> None:
    pair = Pair()
    primary, standby = pair.rent(FOUNDS), pair.standby()
    pair.shop.wait(31)
    pair.shop.manage(standby, state="running")
    pair.shop.wait(31 + 60)
    assert pair.of(standby, "lock", "workload") == ["lock_held", False]
    assert pair.log(standby) == [WAITING, "gpuproxy-boot: version=1 lock=lock_held onstart=not_run"]
    pair.shop.manage(primary, state="stopped")
    assert pair.of(standby, "lock", "workload") == ["lock_held", False]
    assert pair.most() == (2, 1)


@pytest.mark.parametrize(
    "mount", [replace(MOUNT, nonce="other"), replace(FOUNDS, nonce="other"), replace(MOUNT, path="/elsewhere")]
)
def test_a_machine_of_another_pool_or_without_the_mount_does_not_work(mount: VolumeMount) -> None:
    pair = Pair()
    pair.rent(FOUNDS)
    pair.shop.wait(31)
    other = pair.rent(mount)
    pair.shop.wait(31)
    assert pair.of(other, "lock", "workload", "writer") == ["wrong_volume", False, True]


def test_an_empty_volume_is_founded_only_by_a_machine_that_may_and_one_with_data_by_none() -> None:
    pair = Pair()
    shy = pair.rent(MOUNT)
    pair.shop.wait(31)
    assert pair.of(shy, "lock") == ["wrong_volume"]
    pair.rent(None)  # works without a lock, and leaves data
    pair.shop.wait(31)
    pair.shop.destroy(shy)
    pair.shop.wait(31)
    founder = pair.rent(FOUNDS)
    pair.shop.wait(31)
    assert pair.of(founder, "lock") == ["wrong_volume"]


def test_workloads_without_a_lock_are_counted_when_they_are_two() -> None:
    pair = Pair()
    one, two = pair.rent(None), pair.rent(None, onstart="", runtype="args")
    pair.shop.wait(31)
    assert [pair.of(each, "lock", "workload") for each in (one, two)] == [["", True]] * 2
    assert pair.most() == (2, 2)


def test_without_a_script_of_the_user_nothing_works() -> None:
    pair = Pair()
    one = pair.rent(None, onstart="")
    two = pair.rent(None, onstart="", keys=("ssh-ed25519 AAAA me",))
    pair.shop.wait(31)
    assert [pair.of(each, "workload", "writer") for each in (one, two)] == [[False, True]] * 2


def test_a_stop_that_is_only_shown_keeps_the_lock_so_that_there_is_never_a_second_workload() -> None:
    pair = Pair()
    primary, standby = pair.rent(FOUNDS), pair.standby()
    pair.shop.wait(31)
    pair.shop.arm("stop", "stop_lies")
    pair.shop.manage(primary, state="stopped")
    row = pair.shop.get(primary)
    shown = [row[name] for name in ("actual_status", "intended_status", "cur_state", "next_state")]
    assert shown == ["exited", "stopped", "stopped", "stopped"]
    assert pair.of(primary, "status", "writer", "workload", "ssh_addresses") == ["running", True, True, []]
    pair.shop.manage(standby, state="running")
    pair.shop.wait(31 + 60)
    assert pair.of(standby, "lock", "writer") == ["lock_held", True]
    assert pair.most() == (2, 1)
    pair.shop.manage(primary, state="stopped")
    assert pair.of(primary, "status", "writer", "workload") == ["stopped", False, False]


async def test_a_shown_stop_may_end_come_back_or_leave_the_addresses_open() -> None:
    pair = Pair()
    primary = pair.rent(FOUNDS)
    pair.shop.wait(31)
    probe, port = InProcessProbe(pair.shop.sandbox), pair.shop.get(primary)["ssh_port"]
    pair.shop.arm("stop", "stop_lies", args={"silent": False})
    pair.shop.manage(primary, state="stopped")
    assert await probe.reachable("ssh", "127.0.0.1", port, 1.0)
    pair.shop.manage(primary, state="running")
    assert pair.shop.get(primary)["actual_status"] == "running"
    pair.shop.arm("stop", "stop_lies", args={"seconds": 100})
    pair.shop.manage(primary, state="stopped")
    assert not await probe.reachable("ssh", "127.0.0.1", port, 1.0)
    bill = pair.of(primary, "billed_micro_usd")
    pair.shop.wait(99)
    assert pair.of(primary, "status", "writer") == ["running", True]
    pair.shop.wait(2)
    assert pair.of(primary, "status", "writer") == ["stopped", False]
    gpu = pair.shop.get(primary)["dph_base"] * 1e6 / 36  # for 100 s
    assert pair.of(primary, "billed_micro_usd")[0] - bill[0] < gpu


def test_locks_and_counts_survive_a_kill_of_the_market(tmp_path: Path) -> None:
    pair = Pair(state=tmp_path / "market.state")
    primary, standby = pair.rent(FOUNDS), pair.standby()
    pair.shop.wait(31)
    pair.shop.manage(standby, state="running")
    pair.shop.wait(31)
    before = pair.shop.state()
    pair.shop = pair.shop.reopened()
    assert pair.shop.state() == before
    assert pair.log(primary) == ["gpuproxy-boot: version=1 lock=held onstart=started"]
    pair.shop.wait(60)
    assert pair.of(standby, "lock") == ["lock_held"]
    assert pair.most() == (2, 1)
