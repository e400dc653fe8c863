"""How the process ends if its output has no reader or can't be written, and after a signal."""

import os
import pty
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.cli.processes import Launch
from tests.cli.world import World

pytestmark = pytest.mark.long

RELEASE = "gpuproxy release res-1"
MACHINE = "#1 vast-1 on vast.ai/1, 1 x RTX 4090: reserved as 7001 for $0.31/h"


def closed_pipe() -> int:
    """A pipe without a reader."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def stderr_of(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=1200)[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [(), ("--json",)])
@pytest.mark.parametrize("output", [closed_pipe, full])
def test_if_stdout_fails_rented_machines_are_reported_on_stderr(
    launch: Launch, world: World, words: tuple[str, ...], output: Callable[[], int], unbuffered: str
) -> None:
    out = output()
    process = launch("reserve", "2", "--request-id", "mine", *words, stdout=out, unbuffered=unbuffered)
    os.close(out)
    said = stderr_of(process)
    assert process.returncode == 1
    assert said.splitlines()[0] == ('{"request_id": "mine"}' if words else "request id mine")
    why = "Broken pipe" if output is closed_pipe else "No space left on device"
    assert f"Standard output can't be written ({why}). The rest of the output follows here." in said
    assert ("7002" in said, RELEASE in said, "Traceback" in said, "Exception" in said) == (True, True, False, False)
    assert len(world.machines) == 2


@pytest.mark.parametrize("words", [("list",), ("ps",), ("ps", "--json"), ("--help",), ("reserve", "1", "--dry-run")])
def test_a_full_disk_for_stdout_is_reported_in_one_line(launch: Launch, world: World, words: tuple[str, ...]) -> None:
    world.rent(1)
    out = full()
    process = launch(*words, stdout=out)
    os.close(out)
    assert stderr_of(process) == "The output can't be written: No space left on device.\n"
    assert process.returncode == 1


@pytest.mark.parametrize("words", [("list",), ("ps",), ("--help",)])
def test_a_closed_pipe_ends_a_command_that_rents_nothing_silently(
    launch: Launch, world: World, words: tuple[str, ...]
) -> None:
    world.rent(1)
    out = closed_pipe()
    process = launch(*words, stdout=out)
    os.close(out)
    assert (stderr_of(process), process.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Ended by SIGTERM"), (signal.SIGHUP, "Ended by SIGHUP")],
)
def test_a_signal_stops_new_rentals_and_lists_existing_machines(
    launch: Launch, world: World, number: signal.Signals, word: str
) -> None:
    cancelled, under_way = threading.Event(), threading.Event()

    def wait(context: grpc.ServicerContext) -> None:
        context.add_callback(cancelled.set)
        under_way.set()
        assert cancelled.wait(300)
        context.abort(grpc.StatusCode.CANCELLED, "")

    world.during_reserve = wait
    process = launch("reserve", "3", "--request-id", "mine")
    assert under_way.wait(300)
    process.send_signal(number)
    said = stderr_of(process)
    assert process.returncode == 128 + number
    assert f"{word}. No new rental is started. Request id: mine" in said
    assert MACHINE in said
    assert f"To release them: {RELEASE}" in said
    assert len(world.machines) == 1


def test_an_ignored_hangup_does_not_stop_a_rental(launch: Launch, world: World) -> None:
    under_way, go_on = threading.Event(), threading.Event()

    def wait(_: grpc.ServicerContext) -> None:
        under_way.set()
        assert go_on.wait(300)

    world.during_reserve = wait
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = launch("reserve", "2")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert under_way.wait(300)
    process.send_signal(signal.SIGHUP)
    go_on.set()
    assert (RELEASE in process.communicate(timeout=1200)[0], process.returncode) == (True, 0)


def test_ctrl_c_before_an_answer_is_130(launch: Launch, world: World) -> None:
    asked, answered = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        assert answered.wait(300)

    world.during_list = wait
    process = launch("ps")
    assert asked.wait(300)
    process.send_signal(signal.SIGINT)
    said = stderr_of(process)
    answered.set()
    assert (said, process.returncode) == ("\nInterrupted.\n", 130)


def test_ctrl_c_at_a_prompt_is_130(launch: Launch, world: World) -> None:
    world.rent(1)
    ours, terminal = pty.openpty()
    process = launch("release", "res-1", stdin=terminal)
    os.close(terminal)
    assert process.stderr is not None
    said = ""
    while not said.endswith("[y/N]: "):
        said += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    while not select.select([process.stderr], [], [], 1)[0]:  # one just before the read begins is not seen by Python
        process.send_signal(signal.SIGINT)
    assert stderr_of(process).endswith("\nInterrupted.\n")
    os.close(ours)
    assert (process.returncode, world.reservations[0].state) == (130, "pending")


def test_ctrl_c_while_the_program_is_imported_is_130_without_a_traceback(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = launch("list")
    assert (stderr_of(process), process.returncode) == ("", 130)
