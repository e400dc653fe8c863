"""A folder that stands for a machine: the boot script runs there for real, under one of the shells that images have."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SHELLS = ("dash", "bash", "busybox")
TOOLS = ("base64", "cat", "chmod", "date", "env", "grep", "gzip", "mkdir", "mktemp", "mv", "openssl", "rm", "setsid",
         "sleep", "tail", "touch", "tr")  # fmt: skip
"""What scripts may find on a machine, besides a shell, bash and python3."""
_SECONDS = 60


def needed(program: str) -> str:
    """The path of a program. Where it is missing the test is skipped, but not where CI promises that it is there."""
    found = shutil.which(program)
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
        path = self.folder / "onstart.sh"
        path.write_text(script, encoding="utf-8", newline="")
        settings = {
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "GPUPROXY_BOOT_CONSOLE": str(self.console),
            **(env or {}),
        }
        ran = subprocess.run(
            [str(self.bin / "sh"), str(path), *arguments],
            input=stdin.encode(),
            env=settings,
            cwd=self.folder,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # a script that kills its process group must not kill the tests
        )
        said, complained = (stream.decode(errors="replace") for stream in (ran.stdout, ran.stderr))
        return subprocess.CompletedProcess(ran.args, ran.returncode, said, complained)


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
    (made.bin / "python3").symlink_to(sys.executable)
    for tool in TOOLS:
        (made.bin / tool).symlink_to(needed(tool))
    return made
