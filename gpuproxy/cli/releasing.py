"""The commands `release` and `destroy`. Both list the machines and ask before they destroy data."""

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.connection import Connection, ServerRefused, client_command
from gpuproxy.cli.machines import NOT_THERE, RENTED, counted, find_reservation, hourly, machine_table, totals
from gpuproxy.v1 import gpuproxy_pb2 as pb


@click.command()
@click.argument("name", metavar="ID", type=TextType())
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@client_command
def release(connection: Connection, name: str, yes: bool) -> None:
    """Release all machines of a reservation. Data on the machines is lost."""
    reservation = find_reservation(connection, name)
    over = reservation.state in ("releasing", "released", "failed")
    if reservation.instances and not connection.as_json:
        click.echo(machine_table(reservation.instances, connection.server_now()), err=True)
        click.echo(totals(reservation.instances), err=True)
    unknown = sum(outcome.state in ("pending", "unknown") for outcome in reservation.outcomes)
    what = counted(len(reservation.instances)) + (f" and {unknown} with an unknown outcome" if unknown else "")
    _ask(f"Release {what} of {reservation.reservation_id}?", reservation.price_per_hour, yes=yes or over)
    request = pb.ReleaseReservationRequest(reservation_id=reservation.reservation_id)
    released = connection.call(connection.stub.ReleaseReservation, request).reservation
    if connection.as_json:
        connection.print_json(released)
    else:
        reason = f" ({reservation.reason})" if reservation.reason else ""
        state = f"already {reservation.state}{reason}, nothing was changed" if over else released.state
        click.echo(f"{released.reservation_id} {state} · {tables.price(released.cost_so_far)} in total")


@click.command()
@click.argument("names", metavar="ID...", nargs=-1, required=True, type=TextType())
@click.option("--provider", type=TextType(), help="Provider of the machines, if `gpuproxy ps` does not list them.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
@client_command
def destroy(connection: Connection, names: tuple[str, ...], provider: str | None, yes: bool) -> None:
    """Destroy single machines, by contract id. Data on the machines is lost."""
    rented = connection.call(connection.stub.ListGPUInstances, RENTED).instances
    meant = {name: one for name in names for one in rented if one.contract_id == name}
    if meant and not connection.as_json:
        click.echo(machine_table(list(meant.values()), connection.server_now()), err=True)
        click.echo(totals(list(meant.values())), err=True)
    _ask(f"Destroy {counted(len(names))}?", sum(hourly(one) for one in meant.values()), yes=yes)
    failures = 0
    for name in names:
        where = meant[name].provider if name in meant else provider or ""
        failures += not _destroy_one(connection, where, name)
    if failures:
        raise SystemExit(1)


def _ask(question: str, price: float, *, yes: bool) -> None:
    """Ask for confirmation; without it, end with exit code 1. `price`: what the machines cost, in USD per hour."""
    if yes:
        return
    try:
        agreed = click.confirm(f"{question} Data on them is lost.", err=True)
    except click.Abort as abort:
        if not isinstance(abort.__context__, EOFError):
            raise
        click.echo("\nConfirmation is needed, but stdin has ended. Use --yes in scripts.", err=True)
        agreed = False
    if not agreed:
        still = f" The machines still cost {tables.hourly(price)}." if price else ""
        click.echo(f"Nothing was changed.{still}", err=True)
        raise SystemExit(1)


def _is_reservation(connection: Connection, name: str) -> bool:
    try:
        find_reservation(connection, name)
    except ServerRefused:
        return False
    return True


def _destroy_one(connection: Connection, provider: str, name: str) -> bool:
    try:
        request = pb.DestroyGPUInstanceRequest(provider=provider, instance_id=name)
        answer = connection.call(connection.stub.DestroyGPUInstance, request)
    except ServerRefused as refused:
        if refused.exit_code != 1:
            raise
        click.echo(f"{name}: {refused.message}", err=True)
        if refused.error.code in NOT_THERE and _is_reservation(connection, name):
            click.echo(f"{name} is a reservation. gpuproxy release {name} releases all of its machines.", err=True)
        return False
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(f"{name} {answer.state} · {answer.message}")
    return True
