"""Fixtures: the command line in a temporary directory, and a server in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuproxy.cli import root
from tests.cli.processes import Launch, launching
from tests.cli.world import KEY, Run, World, served


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def address(world: World) -> Iterator[str]:
    with served(world) as at:
        yield at


@pytest.fixture
def run(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def invoke(*words: str, answer: str = "", **env: str) -> Result:
        variables = {"GPUPROXY_SERVER": address, "GPUPROXY_API_KEY": KEY, "COLUMNS": "200", **env}
        return CliRunner().invoke(root, words, input=answer, env=variables, catch_exceptions=False)

    return invoke


@pytest.fixture
def launch(address: str, tmp_path: Path) -> Iterator[Launch]:
    """Start a command as a process; its output is buffered unless `unbuffered` is set."""
    with launching(address, tmp_path) as started:
        yield started
