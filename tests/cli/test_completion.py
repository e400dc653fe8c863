"""`gpuproxy completion`: what click offers, and that real shells complete with the printed script."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from gpuproxy.cli import COMMANDS, root
from tests.boot.machine import needed

PATIENCE = 600.0
"""Seconds. They only end what hangs."""
BIN = Path(sys.executable).parent


def offered(*words: str) -> list[str]:
    """What a shell is offered for the last word."""
    shell = BashComplete(root, {}, "gpuproxy", "_GPUPROXY_COMPLETE")
    return [str(item.value) for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_every_command_is_offered_and_no_module_is_imported_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "no-such-module", ("gpuproxy.cli.nonsense:nonsense", ""))
    assert offered("") == list(COMMANDS)
    assert offered("rese") == ["reservations", "reserve"]
    assert not offered("nonsense")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_offered(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    options = {
        opt for each in command.params if isinstance(each, click.Option) and not each.hidden for opt in each.opts
    }
    assert {option for option in options if option.startswith("--")} <= set(offered(name, "--"))
    if isinstance(command, click.Group):
        assert set(command.commands) == set(offered(name, ""))


def test_the_words_of_an_option_are_offered() -> None:
    assert offered("reserve", "--strategy", "lowest_p") == ["lowest_price"]
    assert offered("strategy", "lowest_p") == ["lowest_price"]
    assert offered("reserve", "--provider", "v") == ["vast.ai"]
    assert offered("keys", "create", "me", "--role", "") == ["admin", "user", "viewer"]
    assert not offered("reserve", "--strategy", "nonsense")


def test_a_command_that_is_not_installed_completes_to_no_option_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "serve", ("no_such_package.server:serve", ""))
    assert offered("serve", "--") == ["--version", "--help"]  # those of `gpuproxy`
    with pytest.raises(ModuleNotFoundError):
        root.get_command(click.Context(root), "serve")


def test_another_shell_is_wrong_usage() -> None:
    result = CliRunner().invoke(root, ["completion", "csh"])
    assert (result.exit_code, "'csh' is not one of 'bash', 'zsh', 'fish'" in result.output) == (2, True)


@pytest.mark.long
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_is_valid_in_its_shell(shell: str) -> None:
    script = CliRunner().invoke(root, ["completion", shell]).output
    assert "_GPUPROXY_COMPLETE" in script
    for text, valid in ((script, True), (script + "\nif (", False)):
        done = subprocess.run([needed(shell), "-n"], input=text, text=True, capture_output=True, check=False)
        assert (done.returncode == 0) is valid, done.stderr


STARTS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(gpuproxy completion bash)\n"),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -D -u; source <(gpuproxy completion zsh)\n"),
}
TABS = {
    "prov": "providers ",
    "reserve --strategy lowest_p": "lowest_price ",
    "list --ca README.": "README.md ",
}


@pytest.mark.long
@pytest.mark.parametrize("shell", STARTS)
def test_a_person_at_a_terminal_gets_completions(shell: str, tmp_path: Path) -> None:
    needed(shell)
    command, source = STARTS[shell]
    (tmp_path / "README.md").touch()
    with Terminal(command, tmp_path) as terminal:
        terminal.type(f"{source}echo rea''dy\n")
        terminal.until("ready")
        for typed, completed in TABS.items():
            terminal.type(f"gpuproxy {typed}\t")
            terminal.until(completed)
            terminal.type("\x15")  # delete the line


@pytest.mark.long
def test_fish_completes(tmp_path: Path) -> None:
    for typed, completed in (*list(TABS.items())[:-1], ("nonsense", "")):
        script = f"gpuproxy completion fish | source; complete -C 'gpuproxy {typed}'"
        done = subprocess.run(
            [needed("fish"), "-c", script], env=environment(tmp_path), capture_output=True, text=True, check=False
        )
        assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == completed.split(), done.stderr


class Terminal:
    """A shell at a terminal of its own."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._command, self._folder, self._shown = command, folder, ""

    def __enter__(self) -> Self:
        self._pid, self._fd = pty.fork()
        if not self._pid:
            os.chdir(self._folder)
            os.execvpe(self._command[0], self._command, environment(self._folder))  # noqa: S606
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)

    def type(self, text: str) -> None:
        self._shown = ""
        os.write(self._fd, text.encode())

    def until(self, text: str) -> None:
        """Read until the shell shows it."""
        limit = time.monotonic() + PATIENCE
        while text not in self._shown:
            assert time.monotonic() < limit, f"the shell never showed {text!r}, but {self._shown!r}"
            if select.select([self._fd], [], [], 1.0)[0]:
                self._shown += os.read(self._fd, 65536).decode(errors="replace")


def environment(home: Path) -> dict[str, str]:
    """The programs of this checkout first, and nothing of a user's own settings."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8", "PS1": "$ ", "INPUTRC": "/dev/null"}
