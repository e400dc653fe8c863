"""The command `probe`: measures a marketplace with real machines, by the server. It asks before it spends money."""

import time
from collections.abc import Iterable

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import NumberType, TextType
from gpuproxy.cli.confirming import confirm, yes_option
from gpuproxy.cli.connection import Connection, ServerRefused, client_command
from gpuproxy.cli.ending import print_error
from gpuproxy.cli.stopping import Stop, stoppable
from gpuproxy.model.offers import HIGHEST_PRICE
from gpuproxy.v1 import gpuproxy_pb2 as pb

_POLL = 1.0
_RUNNING = ("running", "releasing")
_HEADERS = ("MEASUREMENT", "VALUE", "MEASURED AT", "")


@click.command()
@click.argument("provider", type=TextType())
@click.option(
    "--max-spend",
    type=NumberType(0, HIGHEST_PRICE),
    required=True,
    metavar="USD",
    help="The most that the probe may cost. If the machines could cost more, nothing is rented.",
)
@click.option("--account", type=TextType(), help="Name of the account (default: the first one that works).")
@yes_option
@client_command
def probe(connection: Connection, /, provider: str, max_spend: float, account: str | None, yes: bool) -> None:
    """Measure how a marketplace behaves, with its cheapest machines. This costs money at a real marketplace.

    The machines are rented for some minutes and then released. Ctrl-C releases them at once. `gpuproxy providers`
    shows what was measured.
    """
    request = pb.ProbeProviderRequest(provider=provider, account=account or "", max_spend=max_spend, dry_run=True)
    plan = connection.call(connection.stub.ProbeProvider, request).probe
    if not connection.as_json or not yes:
        click.echo(_plan(plan), err=True)
    if not yes:
        confirm(f"Rent these machines with account {plan.account} of {plan.provider}?")
    request = pb.ProbeProviderRequest(provider=plan.provider, account=plan.account, max_spend=max_spend)
    with stoppable() as stop:
        begun = connection.call(connection.stub.ProbeProvider, request).probe
        done = _followed(connection, begun, stop)
    if connection.as_json:
        connection.print_json(done)
    else:
        click.echo(_result(done))
    if stop:
        raise SystemExit(stop.exit_code)
    if done.state != "finished":
        raise SystemExit(1)


def _followed(connection: Connection, begun: pb.ProviderProbe, stop: Stop) -> pb.ProviderProbe:
    """The probe once it has ended. Prints what is being done; a signal releases everything and then waits on."""
    asked, said, now = pb.GetProviderProbeRequest(provider=begun.provider, account=begun.account), "", begun
    released = False
    while now.state in _RUNNING:
        if now.message != said:
            said = now.message
            print_error(said)
        if stop and not released:
            released = True
            print_error(f"{stop}: everything is released. A second Ctrl-C only ends this command.")
            release = pb.ReleaseReservationRequest(reservation_id=begun.reservation_id)
            connection.call(connection.stub.ReleaseReservation, release)
        time.sleep(_POLL)
        try:
            now = connection.call(connection.stub.GetProviderProbe, asked).probe
        except ServerRefused as refused:
            print_error(
                f"The server can't be asked any more. The probe goes on there; to end it: gpuproxy release "
                f"{begun.reservation_id}"
            )
            raise refused from None
        if now.reservation_id != begun.reservation_id:
            raise click.ClickException(f"Another probe of account {begun.account} was started meanwhile.")
    return now


def _plan(plan: pb.ProviderProbe) -> str:
    rows = [(part.what, tables.hourly(part.price_per_hour), tables.price(part.max_cost)) for part in plan.parts]
    lines = [
        f"A probe of account {plan.account} of {plan.provider} rents, for some minutes:",
        *(f"  {line}" for line in tables.table(("WHAT", "PRICE", "AT MOST"), rows).splitlines()),
        f"It can cost at most {tables.limit(plan.max_cost)}, traffic not included, as long as this server runs.",
    ]
    return "\n".join(lines)


def _result(done: pb.ProviderProbe) -> str:
    lines = [measurements(done.measurements), "", done.message, f"{tables.price(done.spent)} was spent."]
    return "\n".join(lines)


def measurements(found: Iterable[pb.ProviderMeasurement]) -> str:
    """A table of measurements, with their dates."""
    rows = [(each.name, _value(each), tables.moment(each.measured_at), each.why) for each in found]
    return tables.table(_HEADERS, rows)


def _value(found: pb.ProviderMeasurement) -> str:
    if found.outcome != "measured":
        return found.outcome.replace("_", " ")
    return f"{found.value} {found.unit}".strip()
