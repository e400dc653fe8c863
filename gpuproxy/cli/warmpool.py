"""The commands `warmpool`: a standby beside a machine that must not go down."""

from collections.abc import Callable
from typing import Any

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import PriceType, TextType
from gpuproxy.cli.confirming import confirm, yes_option
from gpuproxy.cli.connection import Connection, ServerUnreachable, client_command
from gpuproxy.cli.ending import print_error
from gpuproxy.cli.pool_options import pool_fields, pool_options
from gpuproxy.cli.pool_text import cost_lines, describe, exists, host_table, pool_table
from gpuproxy.cli.pool_watching import Progress, follow
from gpuproxy.v1 import gpuproxy_pb2 as pb

_TIMEOUT = 600.0
"""Seconds for calls that wait for machines, as on the server."""
_PAGE = 200
_NOT_ACTIVE = 1
"""Exit code if the pool can't take over at the end, or if something is not proven gone yet."""
_NOT_THERE = 1
_NO_POOL = "There is no pool {}. To list the pools: gpuproxy warmpool list"
_GOES_ON = (
    "If the call has reached the server, the pool is still made and billed. To see it: gpuproxy warmpool status {0}. "
    "To destroy it: gpuproxy warmpool cleanup {0}"
)
_ID = click.IntRange(1, 2**63 - 1)
_MACHINE = click.argument("machine_id", metavar="MACHINE", type=_ID)


@click.group()
def warmpool() -> None:
    """Keep a standby beside a machine that must not go down.

    MACHINE is a positive number of your own that names the pool.
    """


@warmpool.command()
@_MACHINE
@client_command
def status(connection: Connection, machine_id: int) -> None:
    """Show a pool: its state and why, its machines, failovers, costs, and what happens next."""
    pool = _status(connection, machine_id)
    if connection.as_json:
        connection.print_json(pool)
    if not exists(pool):
        click.echo(_NO_POOL.format(machine_id), err=True)
        raise SystemExit(_NOT_THERE)
    if not connection.as_json:
        click.echo(describe(pool, connection.server_now()))


@warmpool.command("list")
@client_command
def list_pools(connection: Connection) -> None:
    """List the pools of your project."""
    answer = connection.call(connection.stub.ListWarmPools, pb.ListWarmPoolsRequest(page_size=_PAGE))
    token = answer.next_page_token
    while token:
        more = connection.call(
            connection.stub.ListWarmPools, pb.ListWarmPoolsRequest(page_size=_PAGE, page_token=token)
        )
        answer.pools.extend(more.pools)
        token = more.next_page_token
    answer.next_page_token = ""
    if connection.as_json:
        connection.print_json(answer)
    elif not answer.pools:
        click.echo("No warm pool. To find a host for one: gpuproxy warmpool hosts")
    else:
        click.echo(pool_table(answer.pools, connection.server_now()))


@warmpool.command()
@click.option("--gpu", "gpu_name", type=TextType(), help="GPU model, in any spelling.")
@click.option("--min-gpus", type=click.IntRange(1, 64), default=2, show_default=True, help="GPUs free at once.")
@click.option("--max-price", type=PriceType(), metavar="USD", help="Maximum price per GPU-hour.")
@click.option("--verified/--unverified", default=True, help="Only verified hosts, or all hosts (default: verified).")
@client_command
def hosts(connection: Connection, gpu_name: str | None, min_gpus: int, max_price: float | None, verified: bool) -> None:
    """List hosts with enough free GPUs. Those that can carry a pool come first, then the cheapest."""
    request = pb.ListWarmPoolHostsRequest(
        gpu_name=gpu_name or "", min_gpus=min_gpus, max_price=max_price or 0.0, verified=verified
    )
    answer = connection.call(connection.stub.ListWarmPoolHosts, request)
    if connection.as_json:
        connection.print_json(answer)
    elif not answer.hosts:
        click.echo(f"No host has {min_gpus} such GPUs free now. Try another model, a higher price, or --unverified.")
    else:
        click.echo(host_table(answer.hosts))


@warmpool.command()
@_MACHINE
@click.option(
    "--host",
    "host_machine_id",
    type=_ID,
    metavar="HOST",
    required=True,
    help="The host, from `gpuproxy warmpool hosts`.",
)
@pool_options
@click.option("--provider", type=TextType(), help="Name of the marketplace, if the server has several.")
@click.option("--dry-run", is_flag=True, help="Show what it would cost, and rent nothing.")
@click.option("--no-wait", is_flag=True, help="Do not wait until the pool is active.")
@client_command
def provision(connection: Connection, /, dry_run: bool, no_wait: bool, **options: Any) -> None:
    """Make a pool on a host: volume, primary and standby. Repeating the command rents nothing twice."""
    machine_id = options["machine_id"]
    request = pb.ProvisionWarmPoolRequest(dry_run=dry_run, wait=not no_wait, **pool_fields(**options))
    if dry_run:
        answer = connection.call(connection.stub.ProvisionWarmPool, request)
    else:
        try:
            with Progress(connection, machine_id):
                answer = connection.call(connection.stub.ProvisionWarmPool, request, timeout=_TIMEOUT)
        except (KeyboardInterrupt, ServerUnreachable):
            print_error(_GOES_ON.format(machine_id))
            raise
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(answer.message)
        if not dry_run:
            _limit(answer.max_price_per_hour, answer.max_price_source)
            click.echo(f"To see it: gpuproxy warmpool status {machine_id}", err=True)
    if not dry_run and answer.status.state != "active" and not no_wait:
        raise SystemExit(_NOT_ACTIVE)


@warmpool.command()
@_MACHINE
@click.option("--host", "host_machine_id", type=_ID, metavar="HOST", help="The host (default: one is searched).")
@pool_options
@client_command
def enable(connection: Connection, /, **options: Any) -> None:
    """Take up a pool again, or make one on a host that the server chooses.

    What is not given is as it was. The defaults are those of a new pool.
    """
    answer = connection.call(connection.stub.EnableWarmPool, pb.EnableWarmPoolRequest(**pool_fields(**options)))
    if connection.as_json:
        connection.print_json(answer)
        return
    click.echo(answer.message)
    if answer.plan.price_per_hour:
        click.echo(tables.costs(answer.plan.price_per_hour))
    _limit(answer.max_price_per_hour, answer.max_price_source)
    click.echo(f"To follow it: gpuproxy warmpool watch {options['machine_id']}", err=True)


@warmpool.command()
@_MACHINE
@yes_option
@client_command
def disable(connection: Connection, machine_id: int, yes: bool) -> None:
    """End the supervision and destroy the standby. Primary and volume stay and are still billed.

    A failed primary that is kept after a failover is destroyed, too.
    """
    _ask(connection, machine_id, _disabling, yes=yes)
    answer = connection.call(connection.stub.DisableWarmPool, pb.DisableWarmPoolRequest(machine_id=machine_id))
    if connection.as_json:
        connection.print_json(answer)
        return
    click.echo(answer.message)
    click.echo(f"Fallback {answer.fallback}: {answer.fallback_detail}.", err=True)


@warmpool.command("test-failover")
@_MACHINE
@click.option("--allow-destroy", is_flag=True, help="In the mode recreate: destroy the primary and make it anew.")
@yes_option
@client_command
def test_failover(connection: Connection, machine_id: int, allow_destroy: bool, yes: bool) -> None:
    """Swap primary and standby, as a failure would. The primary is stopped and its workload ends."""
    if allow_destroy:
        _ask(connection, machine_id, "Destroy the primary? What is on its own disk is lost; the volume stays.", yes=yes)
    request = pb.TestWarmPoolFailoverRequest(machine_id=machine_id, allow_destroy=allow_destroy)
    with Progress(connection, machine_id):
        answer = connection.call(connection.stub.TestWarmPoolFailover, request, timeout=_TIMEOUT)
    _recovered(connection, answer)


@warmpool.command()
@_MACHINE
@click.option(
    "--allow-unfenced",
    is_flag=True,
    help="Also if the marketplace does not show the primary stopped: only the lock then protects the volume.",
)
@yes_option
@client_command
def failover(connection: Connection, machine_id: int, allow_unfenced: bool, yes: bool) -> None:
    """Fail over now: the standby takes over, and the primary is stopped, or destroyed in the mode recreate.

    A failed primary that is still kept after an earlier failover is destroyed.
    """
    danger = " The primary may still write to the volume." if allow_unfenced else ""

    def question(pool: pb.WarmPoolStatus) -> str:
        kept = _kept_primary(pool)
        older = f" {kept[:1].upper()}{kept[1:]} is destroyed." if kept else ""
        return f"Replace the primary? Its workload ends, and what is on its own disk may be lost.{older}{danger}"

    _ask(connection, machine_id, question, yes=yes)
    request = pb.FailoverWarmPoolRequest(machine_id=machine_id, allow_unfenced=allow_unfenced)
    with Progress(connection, machine_id):
        answer = connection.call(connection.stub.FailoverWarmPool, request, timeout=_TIMEOUT)
    _recovered(connection, answer)


@warmpool.command()
@_MACHINE
@click.option("--keep-volume", is_flag=True, help="Keep the volume, which goes on being billed.")
@yes_option
@client_command
def cleanup(connection: Connection, machine_id: int, keep_volume: bool, yes: bool) -> None:
    """Destroy everything of a pool: primary, standby and volume. Their data is lost."""
    what = "the machines of this pool? Its volumes stay" if keep_volume else "all of this? The data on it is lost"
    _ask(connection, machine_id, f"Destroy {what}.", yes=yes)
    request = pb.CleanupWarmPoolRequest(machine_id=machine_id, keep_volume=keep_volume)
    with Progress(connection, machine_id):
        answer = connection.call(connection.stub.CleanupWarmPool, request, timeout=_TIMEOUT)
    _gone(connection, answer)


@warmpool.command("delete-volume")
@_MACHINE
@click.argument("volume_id", metavar="VOLUME", type=TextType())
@yes_option
@client_command
def delete_volume(connection: Connection, machine_id: int, volume_id: str, yes: bool) -> None:
    """Delete a volume that a pool no longer uses. Its data is lost."""
    pool = _status(connection, machine_id)
    volume = next((each for each in pool.retained_volumes if each.volume_id == volume_id), None)
    size = f" of {volume.size_gb} GB on host {volume.host_machine_id}" if volume is not None else ""
    if not yes:
        confirm(f"Delete volume {volume_id}{size}? Its data is lost.")
    request = pb.DeleteRetainedVolumeRequest(machine_id=machine_id, volume_id=volume_id)
    _gone(connection, connection.call(connection.stub.DeleteRetainedVolume, request, timeout=_TIMEOUT))


@warmpool.command()
@_MACHINE
@client_command
def watch(connection: Connection, machine_id: int) -> None:
    """Print each change of a pool until Ctrl-C; a failover step by step, with seconds."""
    _status(connection, machine_id)  # a watch waits for a server that is away; this says so if none answers
    follow(connection, machine_id)


def _status(connection: Connection, machine_id: int) -> pb.WarmPoolStatus:
    return connection.call(connection.stub.GetWarmPoolStatus, pb.GetWarmPoolStatusRequest(machine_id=machine_id))


def _disabling(pool: pb.WarmPoolStatus) -> str:
    if kept := _kept_primary(pool):
        return f"Destroy the standby and {kept}? What is on their own disks is lost; the volume stays."
    return "Destroy the standby? What is on its own disk is lost; the volume stays."


def _kept_primary(pool: pb.WarmPoolStatus) -> str:
    """The primary of an earlier failover that is still kept, in words; "" if there is none."""
    ids = [cost.contract_id for cost in pool.costs if cost.part == "failed_primary"]
    return f"the failed primary {ids[0]} that is kept" if ids else ""


def _ask(
    connection: Connection, machine_id: int, question: str | Callable[[pb.WarmPoolStatus], str], *, yes: bool
) -> None:
    """List the parts of the pool and what they cost, and ask."""
    if yes:
        return
    pool = _status(connection, machine_id)
    lines = [f"machine {machine_id} {pool.state}", *cost_lines(pool)]
    click.echo("\n".join(lines), err=True)
    text = question if isinstance(question, str) else question(pool)
    confirm(text, kept=f"Its parts still cost {tables.hourly(pool.price_per_hour)}." if pool.price_per_hour else "")


def _limit(price: float, source: str) -> None:
    click.echo(f"Price limit: {tables.price(price)} per GPU-hour ({source})", err=True)


def _recovered(connection: Connection, answer: pb.TestWarmPoolFailoverResponse | pb.FailoverWarmPoolResponse) -> None:
    if connection.as_json:
        connection.print_json(answer)
        return
    text = f"after {answer.recovery_time_seconds:.1f} s; the primary is now {answer.new_primary_gpu_id}"
    click.echo(f"{answer.message} {text}")


def _gone(connection: Connection, answer: pb.CleanupWarmPoolResponse | pb.DeleteRetainedVolumeResponse) -> None:
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(answer.message)
    if answer.pending_ids:
        if not connection.as_json:
            click.echo("The server goes on until each part is proven gone. To see what is left: gpuproxy ps", err=True)
        raise SystemExit(_NOT_ACTIVE)
