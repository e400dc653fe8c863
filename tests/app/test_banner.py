"""The text at startup contains a command that can be pasted."""

import shutil
import sys
from pathlib import Path

import pytest

from gpuproxy.app.banner import banner
from gpuproxy.config.loading import load_settings


@pytest.mark.parametrize(
    ("script", "below", "program"),
    [
        (True, True, ".venv/bin/gpuproxy"),
        (False, True, ".venv/bin/python -m gpuproxy"),
        (True, False, "{}/.venv/bin/gpuproxy"),
        (False, False, "{}/.venv/bin/python -m gpuproxy"),
    ],
)
def test_the_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: bool, below: bool, program: str
) -> None:
    folder = tmp_path / "here" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (tmp_path / "there").mkdir()
    if script:
        (folder / "gpuproxy").touch()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.chdir(tmp_path / ("here" if below else "there"))
    text = banner(load_settings({}, None), "127.0.0.1:1", "127.0.0.1:2", "")
    assert text.splitlines()[-1].startswith(f"  {program.format(tmp_path / 'here')} reserve 4 ")
