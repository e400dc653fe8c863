"""Logging in: the command that is run or printed, and addresses that are never used."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.world import KEY, Run, World


@pytest.fixture(autouse=True)
def _stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execvp", _not_in_a_test)


def _not_in_a_test(_file: str, _words: list[str]) -> None:
    raise OSError(errno.EPERM, "no test logs in")


def rented(world: World, number: int, *, status: str = "active", host: str = "ssh5.vast.ai") -> pb.GPUInstance:
    machine = world.rent(number, status=status)
    machine.ssh.CopyFrom(pb.SSHAccess(host=host, port=12345, user="root"))
    for kept in world.reservations[0].instances:
        if kept.contract_id == machine.contract_id:
            kept.CopyFrom(machine)
    return machine


LOGIN = "ssh -p 12345 -l root -o HostKeyAlias=gpuproxy-7001 -- ssh5.vast.ai"


def test_the_command_is_printed_with_host_port_and_user_of_the_server(run: Run, world: World) -> None:
    rented(world, 1)
    assert run("ssh", "--print", "7001").stdout == LOGIN + "\n"
    assert run("ssh", "--print", "7001", "nvidia-smi", "-L").stdout == LOGIN + " nvidia-smi -L\n"


def test_ssh_replaces_the_process(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rented(world, 1)
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execvp", lambda file, words: ran.append((file, words)))
    result = run("ssh", "7001")
    assert (result.exit_code, result.stderr, ran) == (0, "", [("ssh", LOGIN.split())])


def test_a_missing_ssh_program_is_reported(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rented(world, 1)

    def execvp(_file: str, _words: list[str]) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "execvp", execvp)
    result = run("ssh", "7001")
    assert (result.exit_code, result.stderr) == (1, "Error: ssh: No such file or directory\n")


def test_ssh_accepts_a_reservation_with_one_machine_only(run: Run, world: World) -> None:
    rented(world, 1)
    assert run("ssh", "--print", "res-1").stdout == LOGIN + "\n"
    rented(world, 2)
    result = run("ssh", "--print", "res-1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "res-1 has 2 machines. Name one of them: 7001, 7002" in result.stderr


def test_ssh_tries_a_starting_machine_unless_it_has_no_address(run: Run, world: World) -> None:
    rented(world, 1, status="starting")
    rented(world, 2, status="starting", host="")
    result = run("ssh", "--print", "7001")
    assert (result.stdout, result.stderr) == (LOGIN + "\n", "7001 is starting, so it may not answer.\n")
    nowhere = run("ssh", "--print", "7002")
    assert (nowhere.exit_code, nowhere.stdout) == (1, "")
    assert "7002 is starting and has no SSH address." in nowhere.stderr


def test_ssh_to_a_releasing_or_unknown_machine_is_refused(run: Run, world: World) -> None:
    rented(world, 1, status="releasing")
    assert "7001 is releasing." in run("ssh", "7001").stderr
    assert run("ssh", "9999").exit_code == 1


@pytest.mark.parametrize("host", ["-oProxyCommand=evil", "a\nProxyCommand evil", "a b", "$(evil)"])
def test_an_address_that_is_an_option_or_a_line_is_never_used(run: Run, world: World, host: str) -> None:
    rented(world, 1, host=host)
    result = run("ssh", "--print", "7001")
    assert (result.exit_code, result.stdout) == (1, "")
    assert run("ssh-config").stdout == ""


def test_every_machine_with_an_address_has_a_host_block(run: Run, world: World, tmp_path: Path) -> None:
    rented(world, 1)
    rented(world, 2, status="starting", host="")
    rented(world, 3, status="releasing")
    text = run("ssh-config").stdout
    assert text.splitlines() == [
        "Host gpuproxy-7001",
        "    # 1 x RTX 4090, active",
        "    HostName ssh5.vast.ai",
        "    Port 12345",
        "    User root",
        "    HostKeyAlias gpuproxy-7001",
    ]
    if program := shutil.which("ssh"):
        (tmp_path / "config").write_text(text)
        read = subprocess.run(
            [program, "-G", "-F", "config", "gpuproxy-7001"], capture_output=True, text=True, check=True, timeout=1200
        ).stdout  # fmt: skip
        assert {"hostname ssh5.vast.ai", "port 12345", "user root"} <= set(read.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ("7001", "--print"),
        ("--print", "7001"),
        ("7001", "--print", "--api-key", KEY),
        ("--api-key", KEY, "7001", "--print", "--"),
        ("--print", "--", "7001"),
    ],
)
def test_options_are_accepted_on_both_sides_of_the_id(run: Run, world: World, words: tuple[str, ...]) -> None:
    rented(world, 1)
    assert run("ssh", *words).stdout == LOGIN + "\n"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--print", "7001", "ls", "--print", "-l"), "ls --print -l"),
        (("7001", "--print", "--", "--server", "x"), "--server x"),
        (("--print", "--", "7001", "--json"), "--json"),
        (("--print", "7001", "ls", "--", "x"), "ls -- x"),
    ],
)
def test_options_of_the_remote_command_are_passed_to_it(
    run: Run, world: World, words: tuple[str, ...], command: str
) -> None:
    rented(world, 1)
    assert run("ssh", *words).stdout == f"{LOGIN} {command}\n"


def test_an_unknown_option_is_not_run_as_a_command(run: Run, world: World) -> None:
    rented(world, 1)
    result = run("ssh", "7001", "-L", "80:x:80")
    assert (result.exit_code, "No such option" in result.stderr) == (2, True)


def test_ssh_to_a_simulated_machine_explains_it_and_does_not_start(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rented(world, 1).metadata["sandbox"] = "true"
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _file, words: ran.append(words))
    result = run("ssh", "7001")
    assert (result.exit_code, result.stdout, ran) == (1, "", [])
    assert result.stderr == (
        "7001 is a simulated machine: it costs nothing and only sends an SSH banner. "
        "Nobody can log in at ssh5.vast.ai:12345.\n"
    )


def test_the_ssh_command_of_a_simulated_machine_is_printed_with_the_explanation_on_stderr(
    run: Run, world: World
) -> None:
    rented(world, 1).metadata["sandbox"] = "true"
    result = run("ssh", "--print", "7001")
    assert (result.exit_code, result.stdout) == (0, LOGIN + "\n")
    assert "simulated machine" in result.stderr
    assert "    # 1 x RTX 4090, active, simulated: only an SSH banner\n" in run("ssh-config").stdout
    assert "sandbox     a simulated machine" in run("show", "7001").stdout
