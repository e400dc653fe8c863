"""`gpuproxy reserve COUNT`: builds one ReserveGPUs call from the options, and prints a summary of the result."""

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import (
    DurationType,
    NumberType,
    PairType,
    PriceType,
    ScriptType,
    StrategyType,
    TextType,
    WordType,
)
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.ending import NOT_WRITTEN, print_error
from gpuproxy.cli.filters import machine_options
from gpuproxy.cli.key_files import read_public_key
from gpuproxy.cli.machines import GONE, seconds
from gpuproxy.cli.marketplaces import ProviderOption
from gpuproxy.cli.readiness import attention
from gpuproxy.cli.rental import OPEN, Output, rent
from gpuproxy.cli.secret_options import RegistryType, SecretEnvType, registry_auth
from gpuproxy.cli.stopping import stoppable
from gpuproxy.edge.messages.launch import MAX_DISK_GB, MIN_DISK_GB
from gpuproxy.model.demands import MAX_GPUS, ON_NOT_READY, PACKINGS, RUN_MODES
from gpuproxy.model.strategies import STRATEGIES
from gpuproxy.v1 import gpuproxy_pb2 as pb

_NOTHING = 1
"""Exit code if no machine is rented at the end, or none yet."""
_STOPPED = "No more machines were rented"
"""Part of the server's message if it stopped renting because further machines would fail like the previous ones."""
_READY_SLACK = 180.0
"""Seconds for renting, in addition to the time for getting ready."""


def _which(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select machines."""
    for option in reversed(
        (
            click.option("--provider", cls=ProviderOption, type=TextType()),
            click.option("--gpu", "gpu_model", type=TextType(), help='GPU model, in any spelling: "RTX 4090", H100.'),
            click.option("--min-vram", type=NumberType(), default=0.0, metavar="GB", help="Minimum memory per GPU."),
            click.option(
                "--max-price",
                type=PriceType(),
                metavar="USD",
                help="Maximum price per GPU-hour, disk included (default: the server's GPUPROXY_MAX_PRICE).",
            ),
            click.option("--location", type=TextType(), help="Country code or part of the location: DE, Texas."),
            click.option("--min-reliability", type=NumberType(0, 1), default=0.0, help="Minimum reliability, 0 to 1."),
            click.option("--min-cuda", type=NumberType(), default=0.0, help="Minimum CUDA version of the host."),
            click.option(
                "--exclude-host", "exclude_hosts", type=TextType(), multiple=True, help="Host to avoid (repeatable)."
            ),
            click.option(
                "--verified/--unverified",
                "verified_only",
                default=None,
                help="Only verified hosts, or all hosts (default: verified).",
            ),
            machine_options,
            click.option(
                "--same-model",
                is_flag=True,
                help="All GPUs of one model: the cheapest model that has enough.",
            ),
            click.option(
                "--same-country",
                is_flag=True,
                help="All GPUs in one country: the cheapest country that has enough.",
            ),
            click.option(
                "--strategy",
                type=StrategyType(),
                help=f"Load balancing strategy for this call: {', '.join(STRATEGIES)} (default: the project's).",
            ),
            click.option(
                "--packing",
                type=WordType(PACKINGS),
                help="How the GPUs are spread over machines. any (default): one-GPU machines first; single: one-GPU "
                "machines only; spread: one machine per host; pack: few hosts; single_host: all on one host.",
            ),
            click.option(
                "--min-count",
                type=click.IntRange(1, MAX_GPUS),
                help="Minimum number of GPUs, at most COUNT. If fewer can be rented, all are released.",
            ),
            click.option(
                "--all-or-nothing", is_flag=True, help="If not all COUNT GPUs can be rented, release all of them."
            ),
        )
    ):
        command = option(command)
    return command


_ONSTART = 'Text of a script that runs at the start, by its #! line or bash. From a file: "$(cat FILE)".'


def _launch(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for what runs on the machines."""
    for option in reversed(
        (
            click.option("--image", type=TextType(), help="Docker image (default: PyTorch)."),
            click.option(
                "--env",
                type=PairType(),
                multiple=True,
                metavar="K=V",
                help="Environment variable of the container (repeatable).",
            ),
            click.option(
                "--secret-env",
                type=SecretEnvType(),
                multiple=True,
                metavar="K[=V]",
                help="Environment variable that GPU Proxy stores nowhere and never shows (repeatable). "
                "K alone takes the value from this command's environment, where other users can't see it.",
            ),
            click.option(
                "--registry-auth",
                "registry",
                type=RegistryType(),
                metavar="USER[@SERVER]",
                help="Log in to the image's registry (default: Docker Hub). The password is read from "
                "GPUPROXY_REGISTRY_SECRET, else asked for, or read from stdin if that is not a terminal.",
            ),
            click.option(
                "--port",
                "ports",
                type=click.IntRange(1, 65_535),
                multiple=True,
                help="Container port to open (repeatable).",
            ),
            click.option(
                "--disk",
                "disk_gb",
                type=NumberType(MIN_DISK_GB, MAX_DISK_GB, or_zero=True),
                default=0.0,
                metavar="GB",
                help="Disk size (default: 50).",
            ),
            click.option(
                "--ssh-key",
                "ssh_keys",
                multiple=True,
                type=click.Path(path_type=Path),
                help="File with a public SSH key for these machines (repeatable). "
                "Keys of `gpuproxy ssh-keys` are always added.",
            ),
            click.option("--onstart", type=ScriptType(), help=_ONSTART),
            click.option("--run-mode", type=WordType(RUN_MODES), help="How the container runs (default: ssh)."),
        )
    ):
        command = option(command)
    return command


_RELEASE_IDLE = click.option(
    "--release-idle-after",
    "release_idle",
    type=DurationType(),
    default=0.0,
    help="Release a machine whose GPUs have been idle for this time, at least 10m (default: never).",
)


def _life(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the lifetime of the machines, and for what the command waits for."""
    for option in reversed(
        (
            click.option(
                "--lease",
                "--for",
                "lease",
                type=DurationType(),
                default=0.0,
                help="Release the machines after this time: 90m, 2h, 7d. "
                "Default, also for 0: the server's GPUPROXY_LEASE_DURATION.",
            ),
            _RELEASE_IDLE,
            click.option(
                "--label",
                "labels",
                type=PairType(),
                multiple=True,
                metavar="K=V",
                help="Label of the reservation (repeatable).",
            ),
            click.option(
                "--wait-ready", is_flag=True, help="Wait until the machines answer (default: until they exist)."
            ),
            click.option(
                "--ready-timeout",
                type=DurationType(),
                default=0.0,
                help="Time for a machine to become ready (default: 15m).",
            ),
            click.option(
                "--on-not-ready",
                type=WordType(ON_NOT_READY),
                help="What to do with a machine that does not become ready (default: replace).",
            ),
            click.option(
                "--keep-late",
                is_flag=True,
                help="If a machine is found after this command has ended, keep it.",
            ),
            click.option(
                "--request-id",
                type=TextType(),
                help="Repeating a request id returns the same reservation (default: a new id).",
            ),
            click.option(
                "--timeout",
                type=DurationType(above_zero=True),
                help="Start no rental after this time (default: 2m; longer with --wait-ready).",
            ),
            click.option("--dry-run", is_flag=True, help="Show what would be chosen, and rent nothing."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("count", type=click.IntRange(1, MAX_GPUS))
@_which
@_launch
@_life
@client_command
def reserve(connection: Connection, /, timeout: float | None, **options: Any) -> None:
    """Rent COUNT (1-16) GPUs in one call."""
    if (least := options["min_count"] or 0) > options["count"]:
        raise click.BadParameter(f"{least} is more than COUNT, {options['count']}", param_hint="'--min-count'")
    request = build_request(**options)
    limit = timeout or (_ready_seconds(request) + _READY_SLACK if request.wait_for == "ready" else 120.0)
    if request.dry_run:
        _show_choice(connection, connection.call(connection.stub.ReserveGPUs, request, timeout=limit))
        return
    connection.server_now()  # if no server answers, end before a request id is printed
    with stoppable() as stop:
        output = Output()
        answer = rent(connection, request, limit, output, stop)
        if connection.as_json:
            output.line(connection.json_of(answer))
        if output.lost or not connection.as_json:
            _print_result(output, request, answer)
    if stop or output.lost:
        raise SystemExit(stop.exit_code if stop else NOT_WRITTEN)
    if not answer.reserved_count:
        raise SystemExit(_NOTHING)


def build_request(  # these options do not have the name of the field that they fill; `fields` do
    *,
    env: Iterable[tuple[str, str]] = (),
    secret_env: Iterable[tuple[str, str]] = (),
    registry: tuple[str, str] | None = None,
    labels: Iterable[tuple[str, str]] = (),
    ssh_keys: Iterable[Path] = (),
    lease: float = 0.0,
    release_idle: float = 0.0,
    ready_timeout: float = 0.0,
    wait_ready: bool = False,
    request_id: str | None = None,
    **fields: Any,
) -> pb.ReserveGPUsRequest:
    """The request for these options, with a new request id unless one is given. Durations are in seconds."""
    request = pb.ReserveGPUsRequest(
        env=dict(env),
        secret_env=dict(secret_env),
        registry_auth=registry_auth(registry) if registry else None,
        labels=dict(labels),
        ssh_public_keys=[read_public_key("--ssh-key", path) for path in ssh_keys],
        wait_for="ready" if wait_ready else "",
        request_id=request_id or f"cli-{secrets.token_hex(8)}",
        **fields,
    )
    if lease:
        request.lease_duration.CopyFrom(seconds(lease))
    if release_idle:
        request.release_idle_after.CopyFrom(seconds(release_idle))
    if ready_timeout:
        request.ready_timeout.CopyFrom(seconds(ready_timeout))
    return request


def summary(count: int, answer: pb.ReserveGPUsResponse) -> str:
    """The last lines: when the reservation ends, how many GPUs it has, what they cost, and how to release them."""
    parts = [f"{answer.reserved_count} of {count}"]
    unknown = sum(outcome.state == "unknown" for outcome in answer.outcomes)
    if unknown:
        parts.append(f"{unknown} with an unknown outcome; the server looks for {'it' if unknown == 1 else 'them'}")
    if gone := sum(outcome.state in GONE for outcome in answer.outcomes):
        parts.append(f"{gone} released or lost")
    parts.append(tables.costs(answer.price_per_hour))
    if answer.cheapest_alternative_per_hour:
        parts.append(f"cheapest alternative {tables.hourly(answer.cheapest_alternative_per_hour)}")
    parts.append(f"gpuproxy release {answer.reservation_id}")
    line = " · ".join(parts)
    if end := tables.moment(answer.expires_at):
        line = f"released automatically at {end}; to change this: gpuproxy extend {answer.reservation_id}\n{line}"
    if _STOPPED in answer.message:
        hint = f"To see the provider's message for each machine: gpuproxy show {answer.reservation_id}"
        return f"{answer.message}\n{hint}\n{line}"
    one_host = len({machine.host_id for machine in answer.reserved_instances}) < 2
    return line if answer.reserved_count == count and one_host else f"{answer.message}\n{line}"


def nothing_held(request_id: str, answer: pb.ReserveGPUsResponse) -> str:
    """Why no machine is rented although the call succeeded: not yet, or no longer, for a repeated request id."""
    if _is_open(answer):
        return (
            "No machine is rented yet: the outcome is still pending. The server resolves this on its own. "
            f"To see the outcome: gpuproxy show {answer.reservation_id}"
        )
    ends = {outcome.reason or outcome.state.upper() for outcome in answer.outcomes if outcome.state in GONE}
    why = f" ({', '.join(sorted(ends))})" if ends else ""
    stopped = f" {answer.message}" if _STOPPED in answer.message else ""
    return (
        f"No machine is rented: request id {request_id} belongs to reservation {answer.reservation_id}, which is "
        f"{answer.state}{why}.{stopped} "
        f"For details: gpuproxy show {answer.reservation_id}. To rent again, use another request id."
    )


def _print_result(output: Output, request: pb.ReserveGPUsRequest, answer: pb.ReserveGPUsResponse) -> None:
    """Print the summary. If no machine is rented, print the reason to stderr."""
    for line in attention(answer.reserved_instances):
        output.line(line)
    if answer.reserved_count or _is_open(answer):
        output.line(summary(request.count, answer))
    if not answer.reserved_count:
        print_error(nothing_held(request.request_id, answer))


def _is_open(answer: pb.ReserveGPUsResponse) -> bool:
    return answer.state == "pending" or any(outcome.state in OPEN for outcome in answer.outcomes)


def _show_choice(connection: Connection, answer: pb.ReserveGPUsResponse) -> None:
    if connection.as_json:
        connection.print_json(answer)
    else:
        click.echo(_dry_run(answer))


def _dry_run(answer: pb.ReserveGPUsResponse) -> str:
    decision = answer.decision
    rows = [
        (pick.offer_id, pick.host_id, str(pick.num_gpus), tables.price(pick.price_per_hour), pick.why)
        for pick in decision.picks
    ]
    rejected = ", ".join(f"{name} {count}" for name, count in sorted(decision.rejected.items()))
    return "\n".join(
        [
            tables.table(("OFFER", "HOST", "GPUS", "$/H", "WHY"), rows),
            f"{decision.strategy}: {decision.eligible} of {decision.considered} offers fit"
            + (f" (rejected: {rejected})" if rejected else ""),
            *decision.notes,
            f"would cost {tables.costs(sum(pick.price_per_hour for pick in decision.picks))}; nothing was rented",
        ]
    )


def _ready_seconds(request: pb.ReserveGPUsRequest) -> float:
    return request.ready_timeout.ToTimedelta().total_seconds() or 900.0
