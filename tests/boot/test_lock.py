"""The lock of the boot script, for real: machines that share a folder, which stands for their volume.

The workloads themselves write when they begin and end. Two of them at a time would be two writers of one volume.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuproxy import boot
from gpuproxy.boot.packing import packed
from gpuproxy.model.demands import VolumeMount
from tests.boot.machine import SHELLS, Machine, kill, machine, moved
from tests.boot.test_machine import SAYS_ITS_SURROUNDINGS
from tests.boot.volume import MARKS_ONCE, NONCE, WAITS, Shared, eventually, lacking, locked

pytestmark = pytest.mark.long
KEY = "ssh-ed25519 AAAA me@host"
LEAVES_A_DAEMON = """#!/usr/bin/env python3
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.closerange(0, 1024)
with open(os.environ["MARKS"], "a") as marks:
    marks.write("begin\\n")
with open(os.path.join(os.environ["HOME"], "fifo")) as fifo:
    fifo.read()
with open(os.environ["MARKS"], "a") as marks:
    marks.write("end\\n")
"""
ENDS_WHILE_ITS_CHILD_WORKS = f"#!/bin/sh\n(\n{WAITS}) &\n"
FORMS = {"plain": lambda text: text, "packed": packed}


@pytest.fixture(params=SHELLS)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    made = Shared(tmp_path, request.param)
    try:
        yield made
    finally:
        made.close()


def holder(place: Machine) -> int:
    """The process that has the lock besides the workload."""
    eventually(lambda: len(_holders(place)) == 1)
    return _holders(place)[0]


def _holders(place: Machine) -> list[int]:
    commands = {number: Path(f"/proc/{number}/cmdline").read_text().split("\0") for number in place.processes()}
    return [number for number, words in commands.items() if words[-3:-1] == ["sleep", "999999999"]]


def ended(process: subprocess.Popen[bytes]) -> int:
    return process.wait(1200)


def test_while_one_workload_works_no_second_one_starts(shared: Shared) -> None:
    shared.found()
    shared.begun(shared.first)
    assert boot.reported(shared.first.printed.splitlines()) == {"lock": "held", "onstart": "started"}
    assert shared.tried(shared.second) == "lock_held"
    assert shared.written() == ["begin"]


def test_a_start_that_waits_says_so_at_once_where_an_earlier_start_had_the_lock(shared: Shared) -> None:
    shared.found()
    assert shared.tried(shared.second) == "held"
    shared.second.stop()
    shared.begun(shared.first)
    shared.start(shared.second, locked(MARKS_ONCE, wait=3_600))
    eventually(lambda: boot.reported(shared.second.printed.splitlines()) == {"lock": "waiting"})
    eventually(lambda: shared.second.console.read_text().endswith("lock=waiting\n"))


def test_after_the_first_machine_has_stopped_the_second_workload_starts(shared: Shared) -> None:
    shared.found()
    shared.begun(shared.first)
    shared.first.stop()
    assert shared.tried(shared.second) == "held"


@pytest.mark.parametrize("form", FORMS)
def test_a_start_waits_for_the_lock_until_the_other_machine_stops(shared: Shared, form: str) -> None:
    shared.found()
    shared.begun(shared.first)
    waiting = shared.start(shared.second, FORMS[form](locked(MARKS_ONCE, wait=3_600)))
    shared.go_on()
    eventually(lambda: len(shared.written()) == 2)
    shared.first.stop()
    assert ended(waiting) == 0
    assert shared.written() == ["begin", "end"] * 2
    assert boot.reported(shared.second.printed.splitlines()) == {"lock": "held", "onstart": "started"}


def test_after_its_wait_a_start_gives_up_without_the_workload(shared: Shared) -> None:
    shared.found()
    shared.begun(shared.first)
    ran = shared.second.start(locked(MARKS_ONCE, wait=1), env=shared.env)
    assert (boot.reported(ran.stdout.splitlines()), ran.returncode) == ({"lock": "lock_held", "onstart": "not_run"}, 1)
    assert shared.written() == ["begin"]


def test_a_workload_without_the_holder_still_has_the_lock(shared: Shared) -> None:
    shared.found()
    shared.begun(shared.first)
    kill(holder(shared.first))
    assert shared.tried(shared.second) == "lock_held"


def test_without_the_holder_and_the_workload_the_lock_is_free(shared: Shared) -> None:
    shared.found()
    workload = shared.begun(shared.first)
    kill(holder(shared.first))
    workload.kill()
    ended(workload)
    assert shared.tried(shared.second) == "held"


@pytest.mark.parametrize("onstart", [LEAVES_A_DAEMON, ENDS_WHILE_ITS_CHILD_WORKS], ids=["daemon", "child"])
def test_a_workload_that_goes_on_after_its_script_has_ended_keeps_the_lock(shared: Shared, onstart: str) -> None:
    shared.found()
    assert ended(shared.begun(shared.first, onstart)) == 0
    assert shared.tried(shared.second) == "lock_held"
    assert shared.written() == ["begin"]


def test_a_holder_that_hangs_keeps_the_lock(shared: Shared) -> None:
    shared.found()
    workload = shared.begun(shared.first)
    os.kill(holder(shared.first), signal.SIGSTOP)
    assert shared.tried(shared.second) == "lock_held"
    workload.kill()
    ended(workload)
    assert shared.tried(shared.second) == "lock_held"  # the machine has not stopped
    shared.first.stop()
    assert shared.tried(shared.second) == "held"


def test_a_workload_that_hangs_keeps_the_lock(shared: Shared) -> None:
    shared.found()
    workload = shared.begun(shared.first)
    kill(holder(shared.first))
    workload.send_signal(signal.SIGSTOP)
    assert shared.tried(shared.second) == "lock_held"


def test_a_machine_gets_its_own_lock_again_at_its_next_start(shared: Shared) -> None:
    shared.found()
    assert shared.tried(shared.first) == "held"
    shared.first.stop()
    assert shared.tried(shared.first) == "held"


@pytest.mark.parametrize("content", ["", "n0nce-2", "n0nce-12", "n0nce-1\nmore", " n0nce-1"])
def test_a_volume_with_another_nonce_is_the_wrong_one(shared: Shared, content: str) -> None:
    shared.found(content)
    assert shared.tried(shared.first) == "wrong_volume"


def test_a_volume_with_this_nonce_is_the_right_one(shared: Shared) -> None:
    shared.found()
    assert shared.tried(shared.first) == "held"


def test_a_volume_that_is_not_mounted_is_the_wrong_one_even_with_the_nonce(shared: Shared) -> None:
    shared.found()
    assert shared.tried(shared.first, GPUPROXY_BOOT_UNMOUNTED="1") == "wrong_volume"


def test_a_folder_that_does_not_exist_is_the_wrong_volume(shared: Shared) -> None:
    assert shared.tried(shared.first, GPUPROXY_BOOT_VOLUME="/no/such/folder") == "wrong_volume"


@pytest.mark.parametrize("missing", [(), ("stat",), ("stat", "df")])
def test_the_device_says_whether_a_volume_is_mounted(shared: Shared, missing: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        words = []
        for parent in ("/", "/dev/shm"):  # noqa: S108
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=parent)))
            (path / ".gpuproxy").mkdir()
            (path / ".gpuproxy" / "pool").write_text(NONCE)
            if parent != "/" and Path(parent).stat().st_dev == Path("/").stat().st_dev:
                pytest.skip(f"needs a file system at {parent}")
            text = moved(locked("echo mine", path=str(path)))
            place = machine(Path(stack.enter_context(tempfile.TemporaryDirectory())), shared.first.shell)
            report = boot.reported(lacking(place, *missing).start(text).stdout.splitlines()) or {}
            place.stop()
            words.append(report["lock"])
    assert words == ["wrong_volume", "wrong_volume" if "df" in missing else "held"]


@pytest.mark.parametrize("existing", [(), ("lost+found",), (".gpuproxy.new",), ("lost+found", ".gpuproxy.new")])
def test_an_empty_volume_is_founded_by_the_machine_that_may(shared: Shared, existing: tuple[str, ...]) -> None:
    for name in existing:
        (shared.volume / name).mkdir()
    ran = shared.first.start(locked(MARKS_ONCE, founds=True), env=shared.env)
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "held", "onstart": "started"}
    assert (shared.volume / ".gpuproxy" / "pool").read_text() == f"{NONCE}\n"
    shared.first.stop()
    assert shared.tried(shared.second) == "held"


def test_an_empty_volume_is_the_wrong_one_for_a_machine_that_may_not_found_it(shared: Shared) -> None:
    assert shared.tried(shared.first) == "wrong_volume"
    assert list(shared.volume.iterdir()) == []


@pytest.mark.parametrize("name", ["data", ".hidden", "..odd", "*", "lost+found more", "two\nlines", ".gpuproxy"])
def test_a_volume_with_anything_on_it_is_not_founded(shared: Shared, name: str) -> None:
    (shared.volume / name).mkdir()
    ran = shared.first.start(locked(MARKS_ONCE, founds=True), env=shared.env)
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "wrong_volume", "onstart": "not_run"}
    assert [each.name for each in shared.volume.iterdir()] == [name]
    assert (list((shared.volume / name).iterdir()), shared.written()) == ([], [])


def test_a_founded_volume_of_another_pool_is_not_founded_again(shared: Shared) -> None:
    shared.found("another")
    ran = shared.first.start(locked(MARKS_ONCE, founds=True), env=shared.env)
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "wrong_volume", "onstart": "not_run"}
    assert (shared.volume / ".gpuproxy" / "pool").read_text() == "another\n"


def test_without_flock_python_takes_the_lock(shared: Shared) -> None:
    shared.found()
    for place in shared.machines:
        lacking(place, "flock")
    shared.begun(shared.first, moves=True)
    assert shared.tried(shared.second, moves=True) == "lock_held"
    shared.first.stop()
    assert shared.tried(shared.second, moves=True) == "held"


def test_where_nothing_can_take_the_lock_the_workload_runs_and_the_report_says_so(shared: Shared) -> None:
    shared.found()
    lacking(shared.second, "flock", "python3")
    shared.begun(shared.first)
    assert shared.tried(shared.second, moves=True) == "unsupported"


def test_where_nothing_can_take_the_lock_the_wrong_volume_is_still_refused(shared: Shared) -> None:
    shared.found("another")
    lacking(shared.second, "flock", "python3")
    assert shared.tried(shared.second, moves=True) == "wrong_volume"


def test_a_lock_command_that_fails_does_not_start_the_workload(shared: Shared) -> None:
    shared.found()
    (shared.first.bin / "flock").unlink()
    (shared.first.bin / "flock").symlink_to("/bin/false")
    assert shared.tried(shared.first, moves=True) == "lock_held"


def test_keys_are_installed_whoever_has_the_lock(shared: Shared) -> None:
    shared.found("another")
    mount = VolumeMount(volume_id="7", path="/data", nonce=NONCE)
    ran = shared.first.start(boot.script([KEY], MARKS_ONCE, lock=mount), env=shared.env)
    assert boot.reported(ran.stdout.splitlines()) == {"keys": "added", "lock": "wrong_volume", "onstart": "not_run"}
    assert shared.first.keys.read_text() == f"{KEY}\n"


def test_without_a_script_of_the_user_the_machine_has_the_lock_all_the_same(shared: Shared) -> None:
    shared.found()
    mount = VolumeMount(volume_id="7", path="/data", nonce=NONCE)
    ran = shared.first.start(boot.script((), "", lock=mount), env=shared.env)
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "held", "onstart": "none"}
    assert shared.tried(shared.second) == "lock_held"


def test_a_skipped_script_takes_the_lock_and_says_if_it_would_have_run(shared: Shared) -> None:
    shared.found()
    ran = shared.first.start(locked(MARKS_ONCE), env={**shared.env, "GPUPROXY_BOOT_ONSTART": "skip"})
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "held", "onstart": "skipped"}
    ran = shared.second.start(locked(MARKS_ONCE), env={**shared.env, "GPUPROXY_BOOT_ONSTART": "skip"})
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "lock_held", "onstart": "not_run"}


@pytest.mark.parametrize("options", ["allexport", "errexit:nounset", "allexport:errexit:nounset", "posix"])
@pytest.mark.parametrize("form", FORMS)
def test_options_of_the_shell_do_not_weaken_the_lock(tmp_path: Path, form: str, options: str) -> None:
    shared = Shared(tmp_path, "bash")
    env = {**shared.env, "SHELLOPTS": options}
    text = FORMS[form](locked("env\nls /proc/self/fd\n", founds=True))
    ran = shared.first.start(text, env=env)
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "held", "onstart": "started"}, ran.stderr
    assert "gp_" not in ran.stdout.replace("gp_a=", "")
    assert ran.stdout.split()[-1] == "9"
    refused = shared.second.start(text, env=env)
    assert boot.reported(refused.stdout.splitlines()) == {"lock": "lock_held", "onstart": "not_run"}, refused.stderr
    shared.close()


def test_the_users_script_finds_what_it_would_find_without_a_lock_and_file_9(shared: Shared) -> None:
    shared.found()
    ran = [
        shared.first.start(text, stdin="typed\n", env={**shared.env, "word": "2", "name": "3"}, arguments=("a b", "c"))
        for text in (boot.script((), SAYS_ITS_SURROUNDINGS), locked(SAYS_ITS_SURROUNDINGS))
    ]
    without, with_lock = (json.loads(each.stdout.splitlines()[-1]) for each in ran)
    assert with_lock[-1].pop(-2) == "9"
    for said in (without, with_lock):
        said[4].pop("_", None)  # a shell sets it to the last command
    assert with_lock == without


def test_a_path_with_odd_characters_is_only_a_path(shared: Shared) -> None:
    ran = shared.first.start(locked("echo mine", path="/no such/it's $(touch pwned) `x`"))
    assert boot.reported(ran.stdout.splitlines()) == {"lock": "wrong_volume", "onstart": "not_run"}
    assert not (shared.first.folder / "pwned").exists()


@pytest.mark.parametrize("nonce", ["a b", "$(id)", "a\nb", "-n", "ä"])
def test_a_nonce_that_is_no_plain_word_is_refused(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        locked("true", nonce=nonce)


def test_a_mount_without_a_nonce_has_no_lock() -> None:
    assert locked("true", nonce="") == boot.script((), "true")
    assert locked("true") != boot.script((), "true")
