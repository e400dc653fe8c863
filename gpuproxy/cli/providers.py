"""The command `providers`."""

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.probe import measurements
from gpuproxy.v1 import gpuproxy_pb2 as pb

_HEADERS = ("ACCOUNT", "REGION", "STATE", "CIRCUIT", "NEXT CREATE", "EVERY", "CREDIT", "MACHINES", "UNKNOWN", "COST")


@click.command()
@click.argument("provider", required=False, type=TextType())
@client_command
def providers(connection: Connection, /, provider: str | None) -> None:
    """Show what each marketplace can do, and how this server's accounts there are."""
    answer = connection.call(connection.stub.ListProviders, pb.ListProvidersRequest(provider=provider or ""))
    if connection.as_json:
        connection.print_json(answer)
        return
    click.echo("\n\n".join(_sheet(each) for each in answer.providers))


def _sheet(info: pb.ProviderInfo) -> str:
    able = [each.name for each in info.capabilities if each.available]
    late = f"{info.late_execution_seconds:g} s" if info.HasField("late_execution_seconds") else "no bound is known"
    calls = ", ".join(f"{call.name} {call.interval_seconds:g} s" for call in info.calls if call.interval_seconds)
    lines = [
        f"{info.provider} (offers {info.offer_prefix}-...)",
        f"  billing: {info.billing}. {info.refund_rule}",
        f"  can: {', '.join(able) or 'nothing of this list'}",
        *(f"  can't: {each.name}: {each.reason}" for each in info.capabilities if not each.available),
        f"  least time between two calls of an account: {calls or 'no limit'}",
        f"  offers on a page: {info.search_page or 'no maximum is known'}",
        f"  a create may be executed late: {late}",
        f"  a new machine may be missing from listings for {info.listing_lag_seconds:g} s",
    ]
    if info.listing_may_miss:
        lines.append("  a listing may lack a machine that exists, so absence from it proves nothing")
    if info.regional_keys:
        lines.append("  a key rents only in its own region")
    if info.HasField("pools_per_account"):
        lines.append(f"  warm pools per account: {info.pools_per_account}")
    if not info.accounts:
        return "\n".join([*lines, "  no key is set"])
    table = tables.table(_HEADERS, [_row(each) for each in info.accounts])
    lines += [f"  {line}" for line in table.splitlines()]
    for each in info.accounts:
        if each.measured:
            shown = measurements(each.measured).splitlines()
            lines += [f"  measured with account {each.name}:", *(f"    {line}" for line in shown)]
    return "\n".join(lines)


def _row(each: pb.ProviderAccount) -> tuple[str, ...]:
    return (
        each.name,
        each.region,
        f"{each.state} ({each.reason})" if each.reason else each.state,
        f"{each.circuit} ({each.failures} failed)" if each.failures else each.circuit,
        f"{each.create_wait_seconds:.1f} s",
        f"{each.create_interval_seconds:.1f} s",
        tables.amount(each.credit) if each.HasField("credit") else "-",
        str(each.machines),
        str(each.unknown),
        tables.hourly(each.price_per_hour),
    )
