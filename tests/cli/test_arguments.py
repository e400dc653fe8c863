"""Words of the command line that no call can carry are wrong usage, and nothing is done."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gpuproxy.cli import root
from tests.cli.world import KEY, World, served

Run = Callable[..., Result]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    with served(world) as address:
        variables = {"GPUPROXY_SERVER": address, "GPUPROXY_API_KEY": KEY}
        yield lambda *words: CliRunner().invoke(root, words, env=variables, catch_exceptions=False)


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize(
    "words",
    [
        ("release", "--yes"),
        ("show",),
        ("extend", "--for", "2h"),
        ("destroy", "--yes", "7001"),
        ("ssh", "--print"),
        ("logs",),
        ("stop",),
        ("start",),
        ("keys", "revoke"),
        ("users", "disable"),
    ],
)
def test_a_blank_id_names_nothing(run: Run, world: World, words: tuple[str, ...], blank: str) -> None:
    world.rent(1)
    result = run(*words, blank)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "must not be empty" in result.stderr
    assert (world.reservations[0].state, world.destroyed, world.extended) == ("pending", [], [])
