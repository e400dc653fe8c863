"""`gpuproxy stop`, `start` and `logs`: what can be done with a machine while it stays rented."""

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.v1 import gpuproxy_pb2 as pb

_PATIENCE = 60.0
_Switched = pb.StopGPUInstanceResponse | pb.StartGPUInstanceResponse


@click.command()
@click.argument("contract", metavar="ID", type=TextType())
@client_command
def stop(connection: Connection, /, contract: str) -> None:
    """Stop a machine. Its disk stays and is still billed. Its GPUs are released; somebody else may rent them."""
    request = pb.StopGPUInstanceRequest(instance_id=contract)
    _told(connection, connection.call(connection.stub.StopGPUInstance, request, timeout=_PATIENCE), "stopped")


@click.command()
@click.argument("contract", metavar="ID", type=TextType())
@client_command
def start(connection: Connection, /, contract: str) -> None:
    """Start a stopped machine, if its GPUs are still free. Its full price is billed again."""
    request = pb.StartGPUInstanceRequest(instance_id=contract)
    _told(connection, connection.call(connection.stub.StartGPUInstance, request, timeout=_PATIENCE), "active")


@click.command()
@click.argument("contract", metavar="ID", type=TextType())
@click.option("--tail", type=click.IntRange(1, 1000), default=100, show_default=True, help="Number of lines.")
@client_command
def logs(connection: Connection, /, contract: str, tail: int) -> None:
    """Print the last lines that a machine's container printed."""
    request = pb.GetInstanceLogsRequest(instance_id=contract, tail=tail)
    answer = connection.call(connection.stub.GetInstanceLogs, request, timeout=_PATIENCE)
    if connection.as_json:
        connection.print_json(answer)
        return
    for line in answer.lines:
        click.echo(line)


def _told(connection: Connection, answer: _Switched, done: str) -> None:
    if connection.as_json:
        connection.print_json(answer)
        return
    machine = answer.instance
    shown = f"is {machine.status}" if machine.status == done else f"will be {done}; it is {machine.status} now"
    click.echo(f"{machine.contract_id} {shown} · {tables.price(machine.price_per_hour)}/h while it runs")
