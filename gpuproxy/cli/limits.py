"""The commands `spending` and `limits`."""

from typing import Any

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import NumberType, TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.v1 import gpuproxy_pb2 as pb

_POLICIES = ("warn", "no_new", "stop_newest", "release_newest")
_THEN = {
    "warn": "The policy warn only logs it.",
    "no_new": "Nothing new is rented. What is rented runs on.",
    "stop_newest": "Nothing new is rented, and the newest machines without an end are stopped.",
    "release_newest": "Nothing new is rented, and the newest machines without an end are released, with their data.",
}
"""What each policy does while the limit is exceeded."""
_EXAMPLES = """\b
Examples:
  gpuproxy limits set 24h 50
  gpuproxy limits set month 1000 --project research --policy stop_newest
"""


@click.command()
@click.option(
    "--check",
    "amount",
    type=NumberType(),
    metavar="USD",
    help="Only say whether this amount could be held now. Exit code 1 if not.",
)
@client_command
def spending(connection: Connection, /, amount: float | None) -> None:
    """Show what is spent and held within each window, and the limits."""
    if amount is not None:
        _check(connection, amount)
        return
    answer = connection.call(connection.stub.GetSpendingInfo, pb.GetSpendingInfoRequest())
    if connection.as_json:
        connection.print_json(answer)
        return
    rows = [
        [each.window, each.scope, f"${each.spent:.4f}", f"${each.held:.4f}", *_limited(each)] for each in answer.windows
    ]
    click.echo(tables.table(["WINDOW", "OF", "SPENT", "HELD", "LIMIT", "LEFT"], rows))
    click.echo(f"${answer.total_spent_24h:.4f} in the last 24 hours")


def _limited(window: pb.SpendingWindow) -> list[str]:
    if not window.limit:
        return ["none", ""]
    return [tables.price(window.limit), "exceeded" if window.exceeded else f"${window.remaining:.4f}"]


def _check(connection: Connection, amount: float) -> None:
    answer = connection.call(connection.stub.CheckSpendingLimit, pb.CheckSpendingLimitRequest(amount=amount))
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(f"{tables.price(amount)} could be held now." if answer.allowed else answer.reason)
    if not answer.allowed:
        raise SystemExit(1)


class _ListByDefault(click.Group):
    """Without the name of a command, the arguments are those of `list`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = bool(args) and (not args[0].startswith("-") or args[0] in ctx.help_option_names)
        if not named and not ctx.resilient_parsing:  # a completion of nothing offers the commands
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("limits", cls=_ListByDefault)
def limits() -> None:
    """List the spending limits, or set one. Without a command: list."""


@limits.command("list")
@client_command
def listed(connection: Connection, /) -> None:
    """List the limits that apply to your project; for an admin, all limits."""
    answer = connection.call(connection.stub.ListSpendingLimits, pb.ListSpendingLimitsRequest())
    if connection.as_json:
        connection.print_json(answer)
        return
    if not answer.limits:
        click.echo("There are no spending limits. An admin sets one: gpuproxy limits set 24h 50")
        return
    rows = [
        [each.window, tables.price(each.limit), _whose(each), each.policy, each.setting or "gpuproxy limits set"]
        for each in answer.limits
    ]
    click.echo(tables.table(["WINDOW", "LIMIT", "OF", "POLICY", "FROM"], rows))


@limits.command("set", epilog=_EXAMPLES)
@click.argument("window", type=TextType())
@click.argument("limit", metavar="USD", type=NumberType())
@click.option("--project", type=TextType(), help="The project that it applies to (default: all together).")
@click.option("--key-id", type=TextType(), metavar="ID", help="The API key that it applies to.")
@click.option("--policy", type=click.Choice(_POLICIES), help="What happens when it is reached (default: the server's).")
@client_command
def set_limit(connection: Connection, /, **wanted: Any) -> None:
    """Set the most that may be spent within WINDOW: 5m to 90d, or month. USD 0 removes the limit. Admins only."""
    chosen = {name: value for name, value in wanted.items() if value is not None}
    answer = connection.call(connection.stub.SetSpendingLimit, pb.SetSpendingLimitRequest(**chosen))
    if connection.as_json:
        connection.print_json(answer)
        return
    limit = answer.limit
    if not limit.limit:
        click.echo(f"There is no limit of {limit.window} for {_whose(limit)} any more")
    else:
        click.echo(f"{tables.price(limit.limit)} in {limit.window} for {_whose(limit)}, {limit.policy}")
        _warn_if_exceeded(connection, limit)


def _warn_if_exceeded(connection: Connection, limit: pb.SpendingLimit) -> None:
    """Say that more than the limit is spent or held already. Only for limits of all projects, whose sums are shown."""
    if limit.scope != "global":
        return
    try:
        windows = connection.call(connection.stub.GetSpendingInfo, pb.GetSpendingInfoRequest()).windows
    except click.ClickException:  # the limit is set; this would only have told more
        return
    if any(each.exceeded and (each.window, each.scope) == (limit.window, "global") for each in windows):
        click.echo(f"It is exceeded already. {_THEN.get(limit.policy, '')}".rstrip(), err=True)


def _whose(limit: pb.SpendingLimit) -> str:
    if limit.scope == "global":
        return "all projects"
    return f"project {limit.project}" if limit.scope == "project" else f"key {limit.key_id}"
