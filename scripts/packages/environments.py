"""Environments with nothing in them but what pip installs from the wheel and the package index."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.packages.contents import ROOT
from tests.own_venv import NotInstalled

_PINNED = re.compile(r"^([A-Za-z0-9._-]+==\S+)", re.MULTILINE)
_CLEAN = ("GPUPROXY_", "VASTAI_", "IONET_", "GUARDRAILS_", "PYTHON", "VIRTUAL_ENV")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment without pip. Its programs see none of the project's files or settings."""

    home: Path

    def program(self, name: str) -> str:
        """The path of a program in it."""
        return str(self.home / "bin" / name)

    def install(self, wheel: Path, extras: str = "") -> None:
        """Install the wheel with the versions of requirements.lock. Raises NotInstalled."""
        pins = self.home / "constraints.txt"
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        pins.write_text("\n".join(_PINNED.findall(lock)), encoding="utf-8")
        what = f"gpuproxy[{extras}] @ {wheel.as_uri()}" if extras else str(wheel)
        self._pip("install", "--quiet", "--no-compile", "--constraint", str(pins), what)

    def packages(self) -> frozenset[str]:
        """What is installed."""
        return frozenset(each["name"] for each in json.loads(self._pip("list", "--format", "json")))

    def run(
        self, *words: str, folder: Path, settings: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program of this environment in `folder`, whatever its exit code."""
        env = {name: value for name, value in os.environ.items() if not name.startswith(_CLEAN)} | dict(settings or {})
        command = [self.program(words[0]), *words[1:]]
        return subprocess.run(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=600,
        )  # fmt: skip

    def _pip(self, *words: str) -> str:
        command = [sys.executable, "-m", "pip", "--python", self.program("python"), "--disable-pip-version-check"]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotInstalled(f"pip {words[0]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout


def made(home: Path) -> Environment:
    """A new, empty environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True, timeout=600)
    return Environment(home)
