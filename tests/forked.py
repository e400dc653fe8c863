"""The program as processes that are forked from one which has imported it: imports are most of a short test.

Only what is before the program's own `main` is left out: the start of the interpreter and the imports. So a module must
keep nothing at its import that belongs to one process, such as a thread or a random state.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from gpuproxy import __main__ as program

_IMPORTED = (
    "gpuproxy.app.main",
    "gpuproxy.cli",
    "gpuproxy.cli.sandbox",
    "gpuproxy.cli.server",
    "gpuproxy.cli.upkeep",
    "gpuproxy.providers.ionet.adapter",
    "gpuproxy.providers.vast.adapter",
    "gpuproxy.sandbox.control.routes",
    "gpuproxy.sandbox.dialects.ionet",
    "gpuproxy.sandbox.dialects.vast",
    "gpuproxy.sandbox.server.listeners",
    "gpuproxy.store.postgres.database",
    "uvloop",
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__, *_IMPORTED])


class Forked:
    """A command that runs; the part of `subprocess.Popen` that tests use. It does not outlive the tests."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *words: str, errors: Path) -> None:
        """`errors` is the file to which its standard error is added."""
        self.args = words
        (their_in, ours_in), (ours_out, their_out) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(ours_in, "w"), os.fdopen(ours_out)
        streams = Connection(their_in, writable=False), Connection(their_out, readable=False)
        arguments = (folder, dict(environment), words, streams, errors)
        self._process = _context.Process(target=_become, args=arguments, daemon=True)
        try:
            self._process.start()
        finally:
            for each in streams:
                each.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise TimeoutError(f"{' '.join(self.args)} still runs")
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()


def run(folder: Path, environment: Mapping[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with nothing but `environment`."""
    with tempfile.NamedTemporaryFile("r") as errors:
        with Forked(folder, environment, *words, errors=Path(errors.name)) as process:
            process.stdin.close()
            output = process.stdout.read()
        return subprocess.CompletedProcess(words, process.wait(), output, errors.read())


def _become(
    folder: Path,
    environment: Mapping[str, str],
    words: tuple[str, ...],
    streams: tuple[Connection, Connection],
    errors: Path,
) -> None:
    """Be the program, in a process that was just forked."""
    os.environ.clear()
    os.environ.update(environment)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    with errors.open("a") as file:
        os.dup2(file.fileno(), 2)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    os.chdir(folder)
    sys.argv = [program.__file__, *words]
    program.main()
