"""Machines that share a folder, which stands for their volume, and workloads that write when they begin and end."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuproxy import boot
from gpuproxy.model.demands import VolumeMount
from tests.boot.machine import Machine, machine, moved

NONCE = "n0nce-1"
WAITS = """#!/bin/sh
echo begin >>"$MARKS"
read -r word <"$HOME/fifo"
echo end >>"$MARKS"
"""
MARKS_ONCE = 'echo begin >>"$MARKS"; echo end >>"$MARKS"\n'
_SECONDS = 1200.0


class Shared:
    """Two machines on one host, and the volume that both mount."""

    def __init__(self, folder: Path, shell: str) -> None:
        self.volume = folder / "volume"
        self.volume.mkdir()
        self.marks = folder / "marks"
        self.machines: list[Machine] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._open: list[int] = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            made = machine(folder / name, shell)
            os.mkfifo(made.home / "fifo")
            self.machines.append(made)

    @property
    def first(self) -> Machine:
        return self.machines[0]

    @property
    def second(self) -> Machine:
        return self.machines[1]

    @property
    def env(self) -> dict[str, str]:
        return {"GPUPROXY_BOOT_VOLUME": str(self.volume), "MARKS": str(self.marks)}

    def found(self, nonce: str = NONCE) -> None:
        """The volume is one with this nonce."""
        (self.volume / ".gpuproxy").mkdir()
        (self.volume / ".gpuproxy" / "pool").write_text(f"{nonce}\n")

    def begun(self, place: Machine, onstart: str = WAITS, *, moves: bool = False) -> subprocess.Popen[bytes]:
        """Start a machine, and return when its workload works and waits for a word."""
        text = locked(onstart)
        process = self.start(place, moved(text) if moves else text)
        eventually(lambda: self._is_read(place.home / "fifo"))
        return process

    def start(self, place: Machine, text: str) -> subprocess.Popen[bytes]:
        """Start a machine."""
        self._processes.append(place.begin(text, self.env))
        return self._processes[-1]

    def go_on(self) -> None:
        """Let the workload of `begun` end."""
        os.write(self._open[-1], b"go on\n")

    def tried(self, place: Machine, *, moves: bool = False, **env: str) -> str:
        """Start a machine that does not wait for the lock; the word of its lock. Its workload would make marks."""
        text = locked(MARKS_ONCE)
        before = self.written()
        ran = place.start(moved(text) if moves else text, env={**self.env, **env})
        report = boot.reported(ran.stdout.splitlines()) or {}
        runs = report["lock"] in ("held", "unsupported")
        assert (report["onstart"], ran.returncode) == (("started", 0) if runs else ("not_run", 1)), ran.stderr
        assert self.written() == before + (["begin", "end"] if runs else [])
        return report["lock"]

    def written(self) -> list[str]:
        return self.marks.read_text().split() if self.marks.exists() else []

    def close(self) -> None:
        for place in self.machines:
            place.stop()
        for process in self._processes:
            process.wait(_SECONDS)
        for each in self._open:
            os.close(each)

    def _is_read(self, fifo: Path) -> bool:
        """True if a process waits at the fifo for something to read. It goes on waiting."""
        try:
            self._open.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True


def locked(onstart: str, *, wait: int = 0, founds: bool = False, nonce: str = NONCE, path: str = "/data") -> str:
    """A boot script with a lock."""
    mount = VolumeMount(volume_id="7", path=path, nonce=nonce, founds=founds, wait_seconds=wait)
    return boot.script((), onstart, lock=mount)


def lacking(place: Machine, *tools: str) -> Machine:
    """The machine without these programs. Skips the test if the shell has one of them built in, as busybox may."""
    place.without(*tools)
    for tool in tools:
        if place.start(f"command -v {tool}").returncode == 0:
            pytest.skip(f"{place.shell} has {tool} built in")
    return place


def eventually(happens: Callable[[], bool]) -> None:
    """Return when it has happened; fails only if it surely hangs."""
    last = time.monotonic() + _SECONDS
    while not happens():
        assert time.monotonic() < last
        time.sleep(0.005)  # others need the processor
