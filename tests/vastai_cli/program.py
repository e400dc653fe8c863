"""The official command line of vast.ai, unmodified, in its own virtual environment, and how it is run.

It is installed once, from a lock file with hashes, under .venv-vastai in the checkout. If the installation fails, the
tests fail.
"""

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import own_venv

_HERE = Path(__file__).resolve().parent
_HOME = _HERE.parent.parent / ".venv-vastai"
_LOCK = _HERE / "requirements.lock"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PATIENCE = 300.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The output of one command, without colours, and its exit code."""

    out: str
    err: str
    code: int


class Program:
    """The installed program, in a prepared process for each API key; a command is a fork of it."""

    def __init__(self, *, path: Path, home: Path, url: str) -> None:
        """`home` gets its settings and caches; `url` is the market's address."""
        self.path = path
        self.home = home
        self.url = url
        self._prepared: dict[str, subprocess.Popen[str]] = {}

    def run(self, words: Sequence[str], key: str) -> Said:
        """Run one command with one API key."""
        process = self._prepared.get(key) or self._prepare(key)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(list(words)) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        return Said(out=_ESCAPES.sub("", said["out"]), err=_ESCAPES.sub("", said["err"]), code=said["code"])

    def close(self) -> None:
        """End the prepared processes."""
        for process in self._prepared.values():
            process.communicate(timeout=_PATIENCE)

    def _prepare(self, key: str) -> "subprocess.Popen[str]":
        """What the program reads from its environment when it is imported is that of this key."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.home),
            **{f"XDG_{name}_HOME": str(self.home / name.lower()) for name in ("CONFIG", "CACHE", "STATE", "DATA")},
            "VAST_URL": self.url,
            "VAST_API_KEY": key,
            "VASTAI_NO_UPDATE_CHECK": "1",
            "COLUMNS": "250",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "NO_PROXY": "127.0.0.1",
        }
        python = self.path.with_name("python")
        process = self._prepared[key] = subprocess.Popen(
            [python, _HERE / "prefork.py", self.path],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return process


def installed(home: Path = _HOME) -> Path:
    """The program; it is installed if necessary. Raises NotInstalled."""
    return own_venv.installed(home, _LOCK) / "vastai"
