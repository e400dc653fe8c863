"""`gpuproxy sandbox`: a simulated GPU market on loopback."""

import errno
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_args

import click

from gpuproxy.sandbox import dialects
from gpuproxy.sandbox.market.journal import WrongMarket
from gpuproxy.sandbox.options import (
    DEFAULT_ACCOUNTS,
    DEFAULT_PORT,
    BootScripts,
    DeployBody,
    GoneForm,
    RetryAfter,
    SandboxOptions,
)
from gpuproxy.sandbox.server.http_shell import run


class _Span(click.ParamType[tuple[float, float]]):
    """`MIN,MAX` in seconds; a single number is both."""

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
            self.fail(f"{value!r} must have 0 <= MIN <= MAX", param, ctx)
        return span


class _NotStarted(click.ClickException):
    """The options are wrong, so nothing was started."""

    exit_code = 2


_HELP = f"""Run a simulated GPU market on this machine. It speaks the API of {" and ".join(dialects.MARKETPLACES)}.

Nothing costs money. Clients of the real marketplace work unchanged: give them the printed address and one of the
keys of --accounts. All times are in the market's time; --time-scale makes its clock faster.

By default the market is as difficult as the real one: real rate limits, at most 64 offers in a search, and wrong
first rows for a quarter of the new instances. At io.net, new deployments are unknown for some seconds. For an easy
market: --rate-limits off --search-page 0 --shy-rows 0 --ionet-lag 0.

The control API under /sandbox/v1 shows the state and injects faults: GET state; POST faults, images, clock,
instances/ID/kill, instances/ID/mute, instances/ID/unmute, instances/ID/contract, instances/ID/gpu_util,
machines/ID/occupy, machines/ID/vacate, machines/ID/break, machines/ID/repair, machines/ID/reconnect,
machines/ID/ports, offers/ID; DELETE faults, images. docs/sandbox.md describes these calls.
"""


@click.command(help=_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option("--seed", type=int, default=7, show_default=True, help="The same seed creates the same market.")
@click.option(
    "--market",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.csv",
    help="Use a recorded market instead of the built-in one.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the market in this file across restarts.",
)
@click.option(
    "--machines",
    type=click.IntRange(1),
    default=800,
    show_default=True,
    help="Number of machines of the built-in market.",
)
@click.option(
    "--accounts",
    default=",".join(DEFAULT_ACCOUNTS),
    show_default=True,
    help="Accepted API keys, comma separated; each key is an account.",
)
@click.option(
    "--credit",
    type=click.FloatRange(0),
    default=100_000.0,
    show_default=True,
    help="Credit of each account, in USD.",
)
@click.option(
    "--time-scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Speed of the market's clock, as a multiple of real time.",
)
@click.option(
    "--rate-limits",
    type=click.Choice(["real", "off"]),
    default="real",
    show_default=True,
    help="Minimum intervals between calls, as at the real service.",
)
@click.option(
    "--create-latency",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds until a create is answered.",
)
@click.option(
    "--boot-time",
    type=_Span(),
    default="20,60",
    show_default=True,
    help="Seconds until an instance runs, chosen between MIN and MAX.",
)
@click.option(
    "--search-page",
    type=click.IntRange(0),
    default=64,
    show_default=True,
    help="Maximum number of offers in one search, whatever its limit; 0: all.",
)
@click.option(
    "--list-lag",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds for which a new instance is missing from listings.",
)
@click.option(
    "--odd-hosts",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="Share (0 to 1) of machines with few ports, an old driver, an old GPU or offers that end soon.",
)
@click.option(
    "--shy-rows",
    "misreport_share",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    default=0.25,
    show_default=True,
    help="Share (0 to 1) of new instances whose first rows are wrong: "
    "stopped, without a status, or with another GPU name.",
)
@click.option(
    "--shy-seconds",
    "misreport_seconds",
    type=click.FloatRange(0),
    default=40.0,
    show_default=True,
    help="Maximum time, in seconds, for which these rows are wrong.",
)
@click.option(
    "--one-address",
    "one_address_share",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="Share (0 to 1) of new instances with two SSH addresses, proxy and direct, of which only one answers.",
)
@click.option(
    "--portless",
    "portless_share",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="Share (0 to 1) of machines without direct ports.",
)
@click.option(
    "--refresh-keys",
    "keys_refreshed_after",
    type=click.FloatRange(0),
    metavar="S",
    default=0.0,
    show_default=True,
    help="Seconds of running after which the SSH keys vanish that onstart appended; 0: never.",
)
@click.option(
    "--gone-as",
    type=click.Choice(get_args(GoneForm)),
    default="null",
    show_default=True,
    help="Form of the answer for an instance that does not exist.",
)
@click.option(
    "--ionet-deploy-body",
    type=click.Choice(get_args(DeployBody)),
    default="empty",
    show_default=True,
    help="What io.net answers when a virtual machine was booked: nothing, or its id.",
)
@click.option(
    "--ionet-lag",
    type=click.FloatRange(0),
    default=3.0,
    show_default=True,
    help="Seconds for which io.net does not know a new deployment: reads are answered with 404, lists miss it.",
)
@click.option(
    "--ionet-retry-after",
    type=click.Choice(get_args(RetryAfter)),
    default="seconds",
    show_default=True,
    help="Form of Retry-After when io.net's rate limit of 300 calls a minute is exceeded.",
)
@click.option(
    "--volume-sharing",
    type=click.Choice(["allow", "refuse"]),
    default="allow",
    show_default=True,
    help="Whether several instances may mount one volume. refuse: a create with a volume that is in use is answered "
    "with 400.",
)
@click.option(
    "--standby-binding",
    type=click.Choice(["chunk", "any"]),
    default="chunk",
    show_default=True,
    help="Which GPUs a stopped instance gets when it starts. chunk: only those that it had; any: any free ones of its "
    "machine, as many as it had.",
)
@click.option(
    "--boot-scripts",
    type=click.Choice(get_args(BootScripts)),
    default="ours",
    show_default=True,
    help="Which start scripts run on this computer when their instance runs, each in a temporary folder. ours: only "
    "what GPU Proxy itself adds, such as SSH keys; all: everything, also what other people send; off: nothing.",
)
@click.option(
    "--start-time",
    type=float,
    help="Start of the market's clock, in seconds since 1970. A later time in --state takes precedence.",
)
@click.option("--exit-with-parent", is_flag=True, help="Stop when stdin closes.")
def sandbox(*, accounts: str, **values: Any) -> None:
    """Serve until Ctrl-C, SIGTERM or, with --exit-with-parent, the end of stdin."""
    keys = tuple(key.strip() for key in accounts.split(",") if key.strip())
    if not keys:
        raise click.BadParameter("at least one key is needed", param_hint="--accounts")
    if values["boot_scripts"] == "all" and not _is_loopback(values["host"]):
        text = "with all, --host must be a loopback address: whoever reaches the port can run programs here"
        raise click.BadParameter(text, param_hint="--boot-scripts")
    options = SandboxOptions(accounts=keys, **values)  # the options have the names of its fields
    try:
        run(options)
    except (ValueError, WrongMarket) as error:
        raise _NotStarted(str(error)) from error
    except OSError as error:
        raise _NotStarted(_reason(error, f"{options.host}:{options.port}")) from error


def _reason(error: OSError, address: str) -> str:
    """Why the sandbox did not start. Errors without a file name come from the address that it listens on."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        return f"Can't listen on {address}. Is another program using it? Choose another one with --port."
    return f"Can't listen on {address}: {error.strerror}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
