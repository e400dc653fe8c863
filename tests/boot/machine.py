"""A folder that stands for a machine: the boot script runs there for real, under one of the shells that images have."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SHELLS = ("dash", "bash", "busybox")
TOOLS = ("base64", "cat", "chmod", "date", "df", "env", "flock", "grep", "gzip", "ls", "mkdir", "mktemp", "mv",
         "openssl", "rm", "setsid", "sleep", "stat", "tail", "touch", "tr")  # fmt: skip
"""What scripts may find on a machine, besides a shell, bash and python3."""
_SECONDS = 1200


def needed(program: str) -> str:
    """The path of a program. Where it is missing the test is skipped, but not where CI promises that it is there."""
    # In PATH may be the wrapper of a version manager, which needs programs that the machine does not have.
    found = sys.executable if program == "python3" else shutil.which(program)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing; .ci/run installs it")
    if found is None:
        pytest.skip(f"needs {program}")
    return found


@dataclass(frozen=True, slots=True)
class Machine:
    """Made by `machine`. `sh` is the shell under test there."""

    folder: Path
    shell: str

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def ours(self) -> Path:
        """The directory of the boot script."""
        return self.home / ".gpuproxy"

    @property
    def keys(self) -> Path:
        return self.home / ".ssh" / "authorized_keys"

    @property
    def console(self) -> Path:
        """What stands for the log of the container."""
        return self.folder / "console"

    def without(self, *tools: str) -> "Machine":
        """The same machine without these programs, for scripts that were `moved` to it."""
        for tool in tools:
            (self.bin / tool).unlink()
        return self

    def start(
        self, script: str, *, stdin: str = "", env: Mapping[str, str] | None = None, arguments: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Start the container, and wait for the end of the user's script."""
        ran = subprocess.run(
            [*self._command(script), *arguments],
            input=stdin.encode(),
            env=self._settings(env),
            cwd=self.folder,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # a script that kills its process group must not kill the tests
        )
        said, complained = (stream.decode(errors="replace") for stream in (ran.stdout, ran.stderr))
        return subprocess.CompletedProcess(ran.args, ran.returncode, said, complained)

    def begin(self, script: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the container and do not wait. What it prints is in `printed`."""
        with (self.folder / "printed").open("wb") as printed:
            return subprocess.Popen(
                self._command(script),
                env=self._settings(env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        """What the scripts of `begin` have printed."""
        return (self.folder / "printed").read_text(errors="replace")

    def processes(self) -> list[int]:
        """All processes of the container."""
        mark = f"HOME={self.home}\0".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def stop(self) -> None:
        """Stop the container: nothing of it goes on."""
        while found := self.processes():
            for number in found:
                kill(number)
        for number in _ending():
            kill(number)

    def _command(self, script: str) -> list[str]:
        path = self.folder / "onstart.sh"
        path.write_text(script, encoding="utf-8", newline="")
        return [str(self.bin / "sh"), str(path)]

    def _settings(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "GPUPROXY_BOOT_CONSOLE": str(self.console),
            **(env or {}),
        }


def kill(number: int) -> None:
    """Kill a process, and return when its files are closed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)
    with contextlib.suppress(OSError):
        while _stat(number)[0] not in "ZX":
            os.sched_yield()


def _ending() -> list[int]:
    """Processes that are ending: without memory, but maybe with open files. Nothing tells whose they are."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, *others = _stat(int(path.name))
            if state not in "ZX" and parent not in ("0", "2") and others[18] == "0":  # 2: threads of the kernel
                found.append(int(path.name))
    return found


def _stat(number: int) -> list[str]:
    """The fields of a process from its state on. Raises OSError if there is no such process."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()


def moved(script: str) -> str:
    """The script for a machine without /usr/bin: it finds only what is in the machine's own folder."""
    return script.replace("/usr/bin:/bin", "/nowhere")


def machine(folder: Path, shell: str) -> Machine:
    """A new machine in the folder."""
    made = Machine(folder, shell)
    made.home.mkdir()
    made.bin.mkdir()
    made.console.touch()
    (made.bin / "sh").symlink_to(needed(shell))
    (made.bin / "bash").symlink_to(needed("bash"))
    (made.bin / "python3").symlink_to(needed("python3"))
    for tool in TOOLS:
        (made.bin / tool).symlink_to(needed(tool))
    return made
