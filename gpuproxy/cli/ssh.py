"""The commands `ssh` and `ssh-config`: logging in to rented machines.

A marketplace reuses hosts and ports for other machines, so ssh stores each machine's host key under its contract id.
The host and the user come from the marketplace. They are checked before they become an argument or a line of a file.
"""

import os
import re
import shlex
from collections.abc import Sequence

import click

from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.connection import Connection, ServerRefused, client_command
from gpuproxy.cli.machines import GONE, find_reservation
from gpuproxy.cli.simulated import SANDBOX, is_simulated
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


class _OptionsAroundId(click.Command):
    """Accepts options on both sides of ID. Everything from COMMAND's first word, or from `--`, belongs to COMMAND."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, name = self._cut(ctx, args)
        if name and own[-1:] != ["--"]:
            after, command = self._cut(ctx, name[1:])
            own, name = [*own, *after], [name[0], *command]
        return super().parse_args(ctx, [*(word for word in own if word != "--"), "--", *name])

    def _cut(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str]]:
        """The options at the beginning of `args`, and the rest."""
        options = click.Command(self.name, params=[each for each in self.params if isinstance(each, click.Option)])
        _, rest, _ = options.make_parser(ctx).parse_args(list(args))
        cut = len(args) - len(rest)
        return args[:cut], args[cut:]


@click.command("ssh", cls=_OptionsAroundId, context_settings={"allow_interspersed_args": False})
@click.option("--print", "only_print", is_flag=True, help="Print the command instead of running it.")
@click.argument("name", metavar="ID", type=TextType())
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@client_command
def ssh(connection: Connection, /, name: str, command: tuple[str, ...], only_print: bool) -> None:
    """Log in to a machine, or run COMMAND on it.

    ID is a contract id, or the id of a reservation with one machine. Options come before COMMAND. If COMMAND begins
    with a dash, write `--` before it. Machines of the sandbox can't be logged in to.
    """
    machine = _machine(connection, name)
    words = [*_command(machine), *command]
    if is_simulated(machine):
        address = f"{machine.ssh.host}:{machine.ssh.port}"
        click.echo(f"{machine.contract_id} is {SANDBOX}. Nobody can log in at {address}.", err=True)
        if not only_print:
            raise SystemExit(1)
    if machine.status != "active":
        click.echo(f"{machine.contract_id} is {machine.status}, so it may not answer.", err=True)
    if only_print:
        click.echo(shlex.join(words))
        return
    connection.close()
    try:
        os.execvp(words[0], words)  # noqa: S606 - deliberately without a shell
    except OSError as error:
        raise click.ClickException(f"ssh: {error.strerror}") from None


@click.command("ssh-config")
@client_command
def ssh_config(connection: Connection, /) -> None:
    """Print a Host block for each rented machine, for ~/.ssh/config or `ssh -F`."""
    request = pb.ListGPUInstancesRequest(state="rented", verified_only=False)
    machines = connection.call(connection.stub.ListGPUInstances, request)
    if connection.as_json:
        connection.print_json(machines)
        return
    for machine in machines.instances:
        if machine.status not in GONE and machine.contract_id and _is_plain(machine):
            click.echo(_block(machine))


def _machine(connection: Connection, name: str) -> pb.GPUInstance:
    try:
        return connection.call(connection.stub.GetGPUInstance, pb.GetGPUInstanceRequest(instance_id=name)).instance
    except ServerRefused as refused:
        if refused.error.code not in ("NOT_FOUND", "INVALID_ARGUMENT"):
            raise
        return _only(find_reservation(connection, name).instances, name)


def _only(machines: Sequence[pb.GPUInstance], name: str) -> pb.GPUInstance:
    if len(machines) == 1:
        return machines[0]
    ids = ", ".join(one.contract_id for one in machines)
    raise click.ClickException(f"{name} has {len(machines)} machines." + (f" Name one of them: {ids}" if ids else ""))


def _command(machine: pb.GPUInstance) -> list[str]:
    """The ssh command for the machine. Raises ClickException if it can't be reached by SSH."""
    if machine.status in GONE:
        raise click.ClickException(f"{machine.contract_id} is {machine.status}.")
    if not machine.ssh.host:
        raise click.ClickException(f"{machine.contract_id} is {machine.status} and has no SSH address.")
    if not _is_plain(machine):
        raise click.ClickException(f"{machine.contract_id} has an invalid SSH address: {machine.ssh.host!r}")
    user = machine.ssh.user or "root"
    alias = f"HostKeyAlias={_alias(machine)}"
    return ["ssh", "-p", str(machine.ssh.port), "-l", user, "-o", alias, "--", machine.ssh.host]


def _block(machine: pb.GPUInstance) -> str:
    return "\n".join(
        [
            f"Host {_alias(machine)}",
            f"    # {machine.num_gpus} x {machine.gpu_model}, {machine.status}{_simulated(machine)}".replace("\n", " "),
            f"    HostName {machine.ssh.host}",
            f"    Port {machine.ssh.port}",
            f"    User {machine.ssh.user or 'root'}",
            f"    HostKeyAlias {_alias(machine)}",
        ]
    )


def _simulated(machine: pb.GPUInstance) -> str:
    return ", simulated: only an SSH banner" if is_simulated(machine) else ""


def _alias(machine: pb.GPUInstance) -> str:
    return f"gpuproxy-{machine.contract_id}"


def _is_plain(machine: pb.GPUInstance) -> bool:
    words = (machine.ssh.host, machine.ssh.user or "root", machine.contract_id)
    return all(_PLAIN.fullmatch(word) for word in words)
