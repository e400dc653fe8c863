"""How the program, as a process, ends where nobody reads it, nothing takes its output, or a signal ends it."""

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import grpc
import pytest

from tests.cli.world import KEY, World

pytestmark = pytest.mark.long

GIVE_BACK = "gpuproxy release res-1"
MACHINE = "#1 vast-1 on vast.ai/1, 1 x RTX 4090: reserved as 7001 for $0.31/h"
Launch = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launch(address: str, tmp_path: Path) -> Iterator[Launch]:
    """A command as a process, with buffers unless it is told otherwise."""

    def started(
        *words: str, stdout: int | IO[Any] = subprocess.PIPE, unbuffered: str = "", **how: Any
    ) -> "subprocess.Popen[str]":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GPUPROXY_")}
        inherited["PYTHONUNBUFFERED"] = unbuffered
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuproxy", *words],
            env=inherited | {"GPUPROXY_SERVER": address, "GPUPROXY_API_KEY": KEY, "COLUMNS": "200"},
            cwd=tmp_path,
            stdin=how.pop("stdin", subprocess.DEVNULL),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )
        processes.append(process)
        return process

    processes: list[subprocess.Popen[str]] = []
    with heard(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield started
    for process in processes:
        with process:
            process.kill()


@contextmanager
def heard(*signals: signal.Signals) -> Iterator[None]:
    """Whoever runs the tests may ignore some (nohup), and what is ignored is inherited."""
    ignored = [number for number in signals if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def nobody() -> int:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def told(process: "subprocess.Popen[str]") -> str:
    return process.communicate(timeout=300)[1]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [(), ("--json",)])
@pytest.mark.parametrize("output", [nobody, full])
def test_what_is_rented_is_said_on_stderr_where_stdout_takes_nothing(
    launch: Launch, world: World, words: tuple[str, ...], output: Callable[[], int], unbuffered: str
) -> None:
    out = output()
    process = launch("reserve", "2", "--request-id", "mine", *words, stdout=out, unbuffered=unbuffered)
    os.close(out)
    said = told(process)
    assert process.returncode == 1
    assert said.splitlines()[0] == ('{"request_id": "mine"}' if words else "request id mine")
    why = "Broken pipe" if output is nobody else "No space left on device"
    assert f"Standard output can't be written ({why}); the rest is said here." in said
    assert ("7002" in said, GIVE_BACK in said, "Traceback" in said, "Exception" in said) == (True, True, False, False)
    assert len(world.machines) == 2


@pytest.mark.parametrize("words", [("list",), ("ps",), ("ps", "--json"), ("--help",), ("reserve", "1", "--dry-run")])
def test_an_output_that_is_full_is_one_line_on_stderr(launch: Launch, world: World, words: tuple[str, ...]) -> None:
    world.rent(1)
    out = full()
    process = launch(*words, stdout=out)
    os.close(out)
    assert told(process) == "What this command says can't be written: No space left on device.\n"
    assert process.returncode == 1


@pytest.mark.parametrize("words", [("list",), ("ps",), ("--help",)])
def test_a_reader_that_is_gone_is_told_nothing_by_what_rents_nothing(
    launch: Launch, world: World, words: tuple[str, ...]
) -> None:
    world.rent(1)
    out = nobody()
    process = launch(*words, stdout=out)
    os.close(out)
    assert (told(process), process.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "Interrupted"), (signal.SIGTERM, "Ended by SIGTERM"), (signal.SIGHUP, "Ended by SIGHUP")],
)
def test_a_signal_stops_new_rentals_and_says_what_exists(
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
    said = told(process)
    assert process.returncode == 128 + number
    assert f"{word}: no new rental is started. request id mine" in said
    assert MACHINE in said
    assert f"To give it back: {GIVE_BACK}" in said
    assert len(world.machines) == 1


def test_a_hangup_that_is_ignored_does_not_stop_a_rental(launch: Launch, world: World) -> None:
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
    assert (GIVE_BACK in process.communicate(timeout=300)[0], process.returncode) == (True, 0)


def test_ctrl_c_before_an_answer_is_130(launch: Launch, world: World) -> None:
    asked, answered = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        assert answered.wait(300)

    world.during_list = wait
    process = launch("ps")
    assert asked.wait(300)
    process.send_signal(signal.SIGINT)
    said = told(process)
    answered.set()
    assert (said, process.returncode) == ("\nInterrupted.\n", 130)


def test_ctrl_c_at_a_question_is_130(launch: Launch, world: World) -> None:
    world.rent(1)
    ours, terminal = pty.openpty()
    process = launch("release", "res-1", stdin=terminal)
    os.close(terminal)
    assert process.stderr is not None
    said = ""
    while not said.endswith("[y/N]: "):
        said += process.stderr.read(1)
    while process.poll() is None:  # one that comes just before the read begins is not seen by Python
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
    assert told(process).endswith("\nInterrupted.\n")
    os.close(ours)
    assert (process.returncode, world.reservations[0].state) == (130, "pending")


def test_ctrl_c_while_the_program_is_imported_is_130_without_a_traceback(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    process = launch("list")
    assert (told(process), process.returncode) == ("", 130)
