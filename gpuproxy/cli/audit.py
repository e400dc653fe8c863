"""The command `audit`: who asked for what."""

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import IntegerType, TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.v1 import gpuproxy_pb2 as pb


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Maximum number of events to show."
)
@click.option("--before", type=IntegerType(least=0), default=0, help="Only events before this number.")
@click.option("--project", type=TextType(), help="Only changes of one project.")
@client_command
def audit(connection: Connection, /, limit: int, before: int, project: str | None) -> None:
    """List who rented, extended, released, stopped or changed what, newest first (admins only)."""
    request = pb.ListAuditEventsRequest(limit=limit, before=before, project=project or "")
    answer = connection.call(connection.stub.ListAuditEvents, request)
    if connection.as_json:
        connection.print_json(answer)
        return
    rows = [
        [tables.moment(each.at), each.action, each.subject, each.detail, each.project or "all",
         " ".join(filter(None, (each.user_id, each.key_id))) or "command line"]
        for each in answer.events
    ]  # fmt: skip
    click.echo(tables.table(["AT", "ACTION", "WHAT", "DETAIL", "PROJECT", "BY"], rows) if rows else "No events.")
    if answer.next_before:
        click.echo(f"older ones: --before {answer.next_before}")
