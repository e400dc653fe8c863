"""The help of every command."""

from collections.abc import Iterator

import click
import pytest

from gpuproxy.cli import root
from tests.cli.world import Run


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command, groups included."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("words", list(commands(root)), ids=" ".join)
def test_no_help_shows_marks_of_its_source(run: Run, words: tuple[str, ...]) -> None:
    shown = run(*words, "--help")
    assert shown.exit_code == 0
    assert "\\" not in shown.stdout


def test_the_help_of_enable_says_whose_defaults_are_shown(run: Run) -> None:
    shown = " ".join(run("warmpool", "enable", "--help").stdout.split())
    assert "(default: 50)" in shown
    assert "What is not given is as it was. The defaults are those of a new pool." in shown


def test_each_example_of_limits_set_has_a_line_of_its_own(run: Run) -> None:
    lines = [line.strip() for line in run("limits", "set", "--help").stdout.splitlines()]
    assert "gpuproxy limits set 24h 50" in lines
    assert "gpuproxy limits set month 1000 --project research --policy stop_newest" in lines
