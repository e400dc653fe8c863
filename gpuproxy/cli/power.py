"""The commands `stop`, `start` and `logs`, which work on a rented machine."""

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.machines import hourly, on_machine
from gpuproxy.v1 import gpuproxy_pb2 as pb

_TIMEOUT = 60.0
"""Seconds."""
_Switched = pb.StopGPUInstanceResponse | pb.StartGPUInstanceResponse


@click.command()
@click.argument("contract", metavar="ID", type=TextType())
@client_command
def stop(connection: Connection, /, contract: str) -> None:
    """Stop a machine. Its disk stays and is still billed. Its GPUs are released and may be rented by others."""
    request = pb.StopGPUInstanceRequest(instance_id=contract)
    with on_machine(connection, contract):
        answer = connection.call(connection.stub.StopGPUInstance, request, timeout=_TIMEOUT)
    _show(connection, answer, done="stopped", doing="stopping")


@click.command()
@click.argument("contract", metavar="ID", type=TextType())
@client_command
def start(connection: Connection, /, contract: str) -> None:
    """Start a stopped machine, if its GPUs are still free. Its full price is billed again."""
    request = pb.StartGPUInstanceRequest(instance_id=contract)
    with on_machine(connection, contract):
        answer = connection.call(connection.stub.StartGPUInstance, request, timeout=_TIMEOUT)
    _show(connection, answer, done="active", doing="starting")


@click.command()
@click.argument("contracts", metavar="ID...", nargs=-1, required=True, type=TextType())
@click.option("--tail", type=click.IntRange(1, 1000), default=100, show_default=True, help="Number of lines to print.")
@client_command
def logs(connection: Connection, /, contracts: tuple[str, ...], tail: int) -> None:
    """Print the last lines of the container logs of machines. With several machines, each line names its machine."""
    contracts = tuple(dict.fromkeys(contracts))
    for contract in contracts:
        _print_log(connection, contract, tail, f"{contract}: " if len(contracts) > 1 else "")


def _print_log(connection: Connection, contract: str, tail: int, before: str) -> None:
    request = pb.GetInstanceLogsRequest(instance_id=contract, tail=tail)
    with on_machine(connection, contract):
        answer = connection.call(connection.stub.GetInstanceLogs, request, timeout=_TIMEOUT)
    if connection.as_json:
        connection.print_json(answer)
        return
    if not answer.lines:
        click.echo(f"{contract} has no lines yet.", err=True)
    for line in answer.lines:
        click.echo(f"{before}{line}")


def _show(connection: Connection, answer: _Switched, *, done: str, doing: str) -> None:
    """Print the machine's state: `done` if it has that status, else `doing`."""
    if connection.as_json:
        connection.print_json(answer)
        return
    machine = answer.instance
    state = done if machine.status == done else doing
    click.echo(f"{machine.contract_id} is {state} · {_price(machine, state)}")


def _price(machine: pb.GPUInstance, state: str) -> str:
    full, now = tables.hourly(machine.price_per_hour), tables.hourly(hourly(machine))
    if state == "stopping":
        return f"{now} until it is stopped, then only its disk is billed"
    return f"{now} now, {full} while it runs" if state == "stopped" and now != full else f"{full} while it runs"
