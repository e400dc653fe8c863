"""Commands as processes of their own, for tests of signals and of output that is read while the command runs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.cli.world import KEY

Launch = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def launching(address: str, folder: Path) -> Iterator[Launch]:
    """A function that starts a command as a process; its output is buffered unless `unbuffered` is set."""

    def started(
        *words: str, stdout: int | IO[Any] = subprocess.PIPE, unbuffered: str = "", **how: Any
    ) -> "subprocess.Popen[str]":
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GPUPROXY_")}
        inherited["PYTHONUNBUFFERED"] = unbuffered
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuproxy", *words],
            env=inherited | {"GPUPROXY_SERVER": address, "GPUPROXY_API_KEY": KEY, "COLUMNS": "200"},
            cwd=folder,
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
    """Restore the default handlers: the parent of the tests may ignore signals (nohup), and children inherit that."""
    ignored = [number for number in signals if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
