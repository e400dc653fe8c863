"""`gpuproxy sandbox`: a simulated GPU market on loopback."""

from pathlib import Path
from typing import Literal

import click

from gpuproxy.sandbox.http_shell import run
from gpuproxy.sandbox.journal import WrongMarket
from gpuproxy.sandbox.options import DEFAULT_ACCOUNTS, DEFAULT_PORT, SandboxOptions


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


@click.command()
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
    "--search-page", type=click.IntRange(0), default=0, show_default=True, help="Most offers of one search; 0: all."
)
@click.option(
    "--list-lag",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds for which a fresh instance is missing from listings.",
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
def sandbox(
    *,
    host: str,
    port: int,
    seed: int,
    market: Path | None,
    state: Path | None,
    machines: int,
    accounts: str,
    credit: float,
    time_scale: float,
    rate_limits: Literal["real", "off"],
    create_latency: float,
    boot_time: tuple[float, float],
    search_page: int,
    list_lag: float,
    volume_sharing: Literal["allow", "refuse"],
    standby_binding: Literal["chunk", "any"],
    start_time: float | None,
    exit_with_parent: bool,
) -> None:
    """Serve a simulated GPU market that speaks vast.ai's API, on loopback.

    Nothing in it costs money. Real clients work against it unchanged: point them at the printed address and give
    them one of the keys of --accounts. All seconds are the market's, which --time-scale makes shorter.

    The market can be watched and disturbed under /sandbox/v1: GET state; POST faults, clock, instances/ID/kill,
    machines/ID/occupy, machines/ID/vacate, offers/ID; DELETE faults.
    """
    keys = tuple(key.strip() for key in accounts.split(",") if key.strip())
    if not keys:
        raise click.BadParameter("at least one key is needed", param_hint="--accounts")
    options = SandboxOptions(
        host=host,
        port=port,
        seed=seed,
        market=market,
        state=state,
        machines=machines,
        accounts=keys,
        credit=credit,
        time_scale=time_scale,
        rate_limits=rate_limits,
        create_latency=create_latency,
        boot_time=boot_time,
        search_page=search_page,
        list_lag=list_lag,
        volume_sharing=volume_sharing,
        standby_binding=standby_binding,
        start_time=start_time,
        exit_with_parent=exit_with_parent,
    )
    try:
        run(options)
    except (OSError, ValueError, WrongMarket) as error:
        raise click.ClickException(str(error)) from error
