"""The commands `list`, `load`, `transactions` and `strategy`.

Each option's parameter has the name of the request field that it fills.
"""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import click

from gpuproxy.cli import no_offers, tables
from gpuproxy.cli.arguments import IntegerType, NumberType, PriceType, StrategyType, TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.filters import machine_options
from gpuproxy.cli.marketplaces import ProviderOption
from gpuproxy.edge.messages.launch import MAX_DISK_GB, MIN_DISK_GB
from gpuproxy.v1 import gpuproxy_pb2 as pb


@click.command("list")
@click.option("--provider", cls=ProviderOption, type=TextType())
@click.option("--min-vram", type=NumberType(), default=0.0, metavar="GB", help="Minimum memory per GPU.")
@click.option(
    "--max-price",
    type=PriceType(),
    metavar="USD",
    help="Maximum price per GPU-hour, disk included (default: the server's GPUPROXY_MAX_PRICE).",
)
@click.option("--gpu", "gpu_model", type=TextType(), help='GPU model, in any spelling: "RTX 4090", H100.')
@click.option("--location", type=TextType(), help="Country code or part of the location: DE, Texas.")
@click.option("--num-gpus", type=IntegerType(), default=0, help="Exact number of GPUs of an offer.")
@click.option("--min-reliability", type=NumberType(0, 1), default=0.0, help="Minimum reliability, 0 to 1.")
@click.option(
    "--disk",
    "disk_gb",
    type=NumberType(MIN_DISK_GB, MAX_DISK_GB, or_zero=True),
    default=0.0,
    metavar="GB",
    help="Disk size that the prices include (default: 50).",
)
@click.option(
    "--verified/--unverified",
    "verified_only",
    default=None,
    help="Only hosts that the marketplace verified, or all hosts (default: verified).",
)
@machine_options
@click.option(
    "--order-by",
    type=TextType(),
    help="Sort by price_per_gpu_hour (default), price_per_hour, vram_gb or reliability. "
    'To reverse the order, append "desc".',
)
@click.option(
    "--limit",
    "page_size",
    type=click.IntRange(1, 5000),
    default=20,
    show_default=True,
    help="Maximum number of offers to show.",
)
@click.option(
    "--wide", is_flag=True, help="Also show processor, memory, disk, network, ports, CUDA and the end of each offer."
)
@client_command
def list_offers(connection: Connection, /, wide: bool, **fields: Any) -> None:
    """List what can be rented now, cheapest first."""
    request = pb.ListGPUInstancesRequest(**fields)
    answer = connection.call(connection.stub.ListGPUInstances, request)
    if connection.as_json:
        connection.print_json(answer)
        return
    if answer.instances:
        click.echo(_offers(answer, wide=wide))
    click.echo(_market_summary(connection, answer))
    if answer.message:
        click.echo(answer.message)
    if not answer.total_count and (why := no_offers.hint(connection, request)):
        click.echo(why, err=True)


@click.command()
@click.argument("what", type=click.Choice(["server", "provider", "all"]), default="all")
@client_command
def load(connection: Connection, /, what: str) -> None:
    """Show how busy the hosts of your machines (server), the providers (provider), or both (all) are."""
    answer = connection.call(connection.stub.GetLoadInfo, pb.GetLoadInfoRequest(type=what))
    if connection.as_json:
        connection.print_json(answer)
        return
    if what != "provider":
        click.echo(_loads("CONTRACT", answer.server_load) if answer.server_load else "No machine is rented.")
    if what != "server" and answer.provider_load:
        click.echo(("" if what == "provider" else "\n") + _loads("ON", answer.provider_load))
    click.echo(f"strategy {answer.current_strategy}")


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="Maximum number of transactions to show.",
)
@click.option("--offset", type=IntegerType(least=0), default=0, help="Number of newest transactions to skip.")
@client_command
def transactions(connection: Connection, /, limit: int, offset: int) -> None:
    """List what was spent, newest first: one line for each machine and hour, or for each booking and refund."""
    request = pb.GetTransactionsRequest(limit=limit, offset=offset)
    answer = connection.call(connection.stub.GetTransactions, request)
    if connection.as_json:
        connection.print_json(answer)
        return
    rows = [
        [tables.moment(each.ended_at) if each.status == "completed" else "now", each.status,
         f"${each.amount:.6f}", each.description]
        for each in answer.transactions
    ]  # fmt: skip
    if rows:
        click.echo(tables.table(["UNTIL", "STATUS", "AMOUNT", "FOR"], rows))
    spent = sum(each.amount for each in answer.transactions if each.status == "completed")
    click.echo(f"{len(rows)} of {answer.total_count} transactions; ${spent:.6f} in the completed ones listed here")


@click.command()
@click.argument("name", required=False, type=StrategyType())
@click.option(
    "--global",
    "everywhere",
    is_flag=True,
    help="With NAME: set the strategy of all projects without one of their own (admins only).",
)
@client_command
def strategy(connection: Connection, /, name: str | None, everywhere: bool) -> None:
    """Show the load balancing strategy, or set it to NAME. The change takes effect at once and is permanent.

    Once a project has a strategy of its own, --global has no effect on it.
    """
    if everywhere and not name:
        raise click.UsageError("--global needs NAME. Without both, the strategy is shown.")
    if name:
        scope = "global" if everywhere else "project"
        request = pb.SetLoadBalancerStrategyRequest(strategy=name, scope=scope)
        changed = connection.call(connection.stub.SetLoadBalancerStrategy, request)
        if connection.as_json:
            connection.print_json(changed)
        else:
            click.echo(f"strategy {changed.strategy} ({scope})")
        return
    answer = connection.call(connection.stub.GetLoadBalancerStrategy, pb.GetLoadBalancerStrategyRequest())
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(f"strategy {answer.strategy} ({answer.scope}); available: {', '.join(answer.available)}")


_NARROW = (
    "OFFER", "GPUS", "MODEL", "VRAM", "$/GPU-H", "$/H", "$/DAY", "$/WEEK", "$/MONTH", "RELIABLE", "LOCATION", "HOST"
)  # fmt: skip
_WIDE = (
    "CORES", "RAM", "DISK MB/S", "DOWN MBIT/S", "UP MBIT/S", "$/GB DOWN", "$/GB UP", "PORTS", "CUDA", "COMPUTE", "ENDS"
)  # fmt: skip


def _offers(answer: pb.ListGPUInstancesResponse, *, wide: bool) -> str:
    rows = [(*_narrow(offer), *(_details(offer) if wide else ())) for offer in answer.instances]
    return tables.table(_NARROW + (_WIDE if wide else ()), rows)


def _narrow(offer: pb.GPUInstance) -> tuple[str, ...]:
    return (
        offer.id,
        str(offer.num_gpus),
        offer.gpu_model,
        f"{offer.vram_gb} GB",
        tables.limit(offer.price_per_gpu_hour),
        tables.price(offer.price_per_hour),
        *tables.estimates(offer.price_per_hour),
        f"{offer.reliability:.1%}" if offer.reliability else "-",
        offer.location,
        offer.host_id,
    )


def _details(offer: pb.GPUInstance) -> tuple[str, ...]:
    """The columns of --wide; "-" for what is unknown."""
    return (
        _known(offer.cpu_cores),
        f"{offer.ram_gb:g} GB" if offer.ram_gb else "-",
        _known(round(offer.disk_bandwidth)),
        _known(round(offer.inet_down)),
        _known(round(offer.inet_up)),
        f"${offer.inet_down_price:.4f}" if offer.HasField("inet_down_price") else "-",
        f"${offer.inet_up_price:.4f}" if offer.HasField("inet_up_price") else "-",
        str(offer.direct_ports) if offer.HasField("direct_ports") else "-",
        _known(offer.cuda_max),
        _known(offer.compute_cap),
        tables.moment(offer.expires_at) if offer.HasField("expires_at") else "-",
    )


def _known(number: float) -> str:
    return f"{number:g}" if number else "-"


def _market_summary(connection: Connection, answer: pb.ListGPUInstancesResponse) -> str:
    shown = len(answer.instances)
    cut = f"{shown} of {answer.total_count} offers (--limit shows more)"
    parts = [cut if shown < answer.total_count else f"{shown} offers"]
    parts.append(f"{answer.available_gpus} GPUs can be rented at once")
    if answer.as_of.ByteSize():
        old = (connection.server_now() - answer.as_of.ToDatetime(UTC)).total_seconds()
        parts.append(f"oldest offer seen {tables.span(old)} ago")
    if answer.unreachable:
        parts.append(f"no answer from {', '.join(answer.unreachable)}")
    return " · ".join(parts)


def _loads(first: str, loads: Sequence[pb.LoadInfo]) -> str:
    headers = (first, "PROVIDER", "CONNECTIONS", "LOAD", "CREATE TO READY", "EVER", "LAST USED")
    rows = [
        (
            entry.instance_id,
            entry.provider,
            str(entry.connections),
            f"{entry.load_score:.2f}",
            f"{entry.avg_response_time_ms / 1000:.1f} s" if entry.samples else "-",
            str(entry.total_connections),
            tables.moment(entry.last_used),
        )
        for entry in loads
    ]
    return tables.table(headers, rows)
