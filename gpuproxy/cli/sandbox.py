"""`gpuproxy sandbox`: a simulated GPU market on loopback."""

from pathlib import Path
from typing import Any, get_args

import click

from gpuproxy.sandbox import dialects
from gpuproxy.sandbox.market.journal import WrongMarket
from gpuproxy.sandbox.options import DEFAULT_ACCOUNTS, DEFAULT_PORT, GoneForm, SandboxOptions
from gpuproxy.sandbox.server.http_shell import run


class _Span(click.ParamType[tuple[float, float]]):
    """MIN,MAX in seconds; one number is both."""

    name = "min,max"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        try:
            low, _, high = str(value).partition(",")
            span = float(low), float(high or low)
        except ValueError:
            self.fail(f"{value!r} is not MIN,MAX", param, ctx)
        if not 0 <= span[0] <= span[1]:
            self.fail(f"{value!r}: 0 <= MIN <= MAX", param, ctx)
        return span


_HELP = f"""Serve a simulated GPU market that speaks the API of {" and ".join(dialects.MARKETPLACES)}, on loopback.

Nothing in it costs money. Real clients work against it unchanged: point them at the printed address and give
them one of the keys of --accounts. All seconds are the market's, which --time-scale makes shorter.

The defaults are unkind where the real market is: real rate limits, at most 64 offers in a search, first rows that
are wrong for a quarter of the fresh instances. For a kind market: --rate-limits off --search-page 0 --shy-rows 0.

The market can be watched and disturbed under /sandbox/v1: GET state; POST faults, images, clock,
instances/ID/kill, machines/ID/occupy, machines/ID/vacate, machines/ID/break, machines/ID/repair,
machines/ID/reconnect, offers/ID; DELETE faults, images. The faults are listed in docs/sandbox.md.
"""


@click.command(help=_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any free one.")
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed makes the same market.")
@click.option(
    "--market",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="A recorded market instead of the built-in one.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the market there across restarts.",
)
@click.option("--machines", type=click.IntRange(1), default=800, show_default=True, help="Size of the built-in market.")
@click.option("--accounts", default=",".join(DEFAULT_ACCOUNTS), show_default=True, help="Keys that are accepted.")
@click.option("--credit", type=click.FloatRange(0), default=100_000.0, show_default=True, help="USD of each account.")
@click.option(
    "--time-scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="How fast the market's clock runs: boots, bills, latency and rate limits alike.",
)
@click.option(
    "--rate-limits",
    type=click.Choice(["real", "off"]),
    default="real",
    show_default=True,
    help="Minimum intervals between calls, as the real service has them.",
)
@click.option("--create-latency", type=click.FloatRange(0), default=0.0, show_default=True, help="Seconds of a create.")
@click.option("--boot-time", type=_Span(), default="20,60", show_default=True, help="Seconds until an instance runs.")
@click.option(
    "--search-page",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Most offers of one search, whatever its limit; 0: all.",
)
@click.option(
    "--list-lag",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds for which a fresh instance is missing from listings.",
)
@click.option(
    "--shy-rows",
    "misreport_share",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    default=0.25,
    show_default=True,
    help="Share, 0 to 1, of fresh instances whose first rows are wrong: stopped, without a status, another GPU name.",
)
@click.option(
    "--shy-seconds",
    "misreport_seconds",
    type=click.FloatRange(0),
    default=40.0,
    show_default=True,
    help="Longest time for which those rows are wrong.",
)
@click.option(
    "--gone-as",
    type=click.Choice(get_args(GoneForm)),
    default="null",
    show_default=True,
    help="How the market says that an instance does not exist.",
)
@click.option(
    "--volume-sharing",
    type=click.Choice(["allow", "refuse"]),
    default="allow",
    show_default=True,
    help="May several instances have one volume?",
)
@click.option("--standby-binding", type=click.Choice(["chunk", "any"]), default="chunk", show_default=True)
@click.option("--start-time", type=float, help="Epoch seconds that the market starts at. A later kept time wins.")
@click.option("--exit-with-parent", is_flag=True, help="Stop when stdin closes.")
def sandbox(*, accounts: str, **values: Any) -> None:
    """Serve until Ctrl-C, SIGTERM or, with --exit-with-parent, the end of stdin."""
    keys = tuple(key.strip() for key in accounts.split(",") if key.strip())
    if not keys:
        raise click.BadParameter("at least one key is needed", param_hint="--accounts")
    options = SandboxOptions(accounts=keys, **values)  # options are called as its fields
    try:
        run(options)
    except (OSError, ValueError, WrongMarket) as error:
        raise click.ClickException(str(error)) from error
