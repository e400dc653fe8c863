"""`gpuproxy reserve COUNT`: what its options say as one ReserveGPUs call, and the sum of what came of it."""

import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import DurationType, IntegerType, PriceType, TextType
from gpuproxy.cli.connection import Connection, client_command
from gpuproxy.cli.ending import NOT_WRITTEN, whisper
from gpuproxy.cli.machines import GONE, seconds
from gpuproxy.cli.marketplaces import ProviderOption
from gpuproxy.cli.rental import OPEN, Voice, rent
from gpuproxy.cli.stopping import stoppable
from gpuproxy.v1 import gpuproxy_pb2 as pb

_NOTHING = 1
"""Exit code where nothing is held at the end, or not yet."""
_STOPPED = "No more machines were rented"
"""In the message of an answer whose call stopped renting: a next machine would have failed like those before."""
_READY_SLACK = 180.0
"""Seconds for renting, beside those for getting ready."""


class PairType(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE`."""

    name = "key=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Fails the command without a `=`."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} should be KEY=VALUE", param, ctx)
        return key, text


def _which(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which machines."""
    for option in reversed(
        (
            click.option("--provider", cls=ProviderOption, type=TextType()),
            click.option("--gpu", "gpu_model", type=TextType(), help='A model in any spelling: "RTX 4090", H100.'),
            click.option("--min-vram", type=float, default=0.0, metavar="GB", help="Memory per GPU, at least."),
            click.option(
                "--max-price",
                type=PriceType(),
                metavar="USD",
                help="Per GPU-hour, all-in, at most (default: the server's GPUPROXY_MAX_PRICE).",
            ),
            click.option("--location", type=TextType(), help="A country code or a part of the place: DE, Texas."),
            click.option("--min-reliability", type=float, default=0.0, help="0-1."),
            click.option("--min-cuda", type=float, default=0.0, help="CUDA version of the host, at least."),
            click.option(
                "--exclude-host", "exclude_hosts", type=TextType(), multiple=True, help="A host to avoid (repeatable)."
            ),
            click.option(
                "--verified/--unverified", "verified_only", default=None, help="Default: verified hosts only."
            ),
            click.option("--strategy", type=TextType(), help="Load balancing strategy for this call."),
            click.option("--packing", type=TextType(), help="any (default), single, spread, pack, single_host."),
            click.option("--min-count", type=IntegerType(), help="GPUs that must be kept, else all are given back."),
            click.option("--all-or-nothing", is_flag=True, help="Keep all COUNT GPUs or none."),
        )
    ):
        command = option(command)
    return command


def _launch(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say what runs on them."""
    for option in reversed(
        (
            click.option("--image", type=TextType(), help="A Docker image (default: PyTorch)."),
            click.option(
                "--env", type=PairType(), multiple=True, metavar="K=V", help="For the container (repeatable)."
            ),
            click.option(
                "--port", "ports", type=IntegerType(), multiple=True, help="A container port to open (repeatable)."
            ),
            click.option("--disk", "disk_gb", type=float, default=0.0, metavar="GB", help="Default: 50."),
            click.option(
                "--ssh-key", "ssh_keys", multiple=True, type=click.Path(path_type=Path), help="Public key file."
            ),
            click.option("--onstart", type=TextType(), help="A shell script for the start of the container."),
            click.option("--run-mode", type=TextType(), help="ssh (default), entrypoint, jupyter."),
        )
    ):
        command = option(command)
    return command


def _life(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say how long they live, and what is waited for."""
    for option in reversed(
        (
            click.option(
                "--lease",
                "--for",
                "lease",
                type=DurationType(),
                default=0.0,
                help="Give back after: 90m, 2h, 7d (0 or left out: the server's GPUPROXY_LEASE_DURATION, else never).",
            ),
            click.option(
                "--label", "labels", type=PairType(), multiple=True, metavar="K=V", help="My own (repeatable)."
            ),
            click.option(
                "--wait-ready", is_flag=True, help="Wait until the machines answer, not only until they exist."
            ),
            click.option("--ready-timeout", type=DurationType(), default=0.0, help="Default: 15m."),
            click.option("--on-not-ready", type=TextType(), help="replace (default) or keep."),
            click.option("--keep-late", is_flag=True, help="Keep what turns up after this command has ended."),
            click.option(
                "--request-id", type=TextType(), help="The same id again is the same reservation (default: a new one)."
            ),
            click.option(
                "--timeout", type=DurationType(), help="Start no rental after this (default 2m; more to get ready)."
            ),
            click.option("--dry-run", is_flag=True, help="Rent nothing; show what would be chosen."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("count", type=IntegerType())
@_which
@_launch
@_life
@client_command
def reserve(connection: Connection, /, timeout: float | None, **options: Any) -> None:
    """Rent COUNT (1-16) GPUs in one call."""
    request = build_request(**options)
    limit = timeout or (_ready_seconds(request) + _READY_SLACK if request.wait_for == "ready" else 120.0)
    if request.dry_run:
        _show_choice(connection, connection.call(connection.stub.ReserveGPUs, request, timeout=limit))
        return
    with stoppable() as stop:
        voice = Voice()
        answer = rent(connection, request, limit, voice, stop)
        if connection.as_json:
            voice.say(connection.json_of(answer))
        if voice.lost or not connection.as_json:
            _tell(voice, request, answer)
    if stop or voice.lost:
        raise SystemExit(stop.exit_code if stop else NOT_WRITTEN)
    if not answer.reserved_count:
        raise SystemExit(_NOTHING)


def build_request(  # the few options that are not named after their field come apart
    *,
    env: Iterable[tuple[str, str]] = (),
    labels: Iterable[tuple[str, str]] = (),
    ssh_keys: Iterable[Path] = (),
    lease: float = 0.0,
    ready_timeout: float = 0.0,
    wait_ready: bool = False,
    request_id: str | None = None,
    **fields: Any,
) -> pb.ReserveGPUsRequest:
    """The call that the options describe, with a new request id unless one is given."""
    request = pb.ReserveGPUsRequest(
        env=dict(env),
        labels=dict(labels),
        ssh_public_keys=[_public_key(path) for path in ssh_keys],
        wait_for="ready" if wait_ready else "",
        request_id=request_id or f"cli-{secrets.token_hex(8)}",
        **fields,
    )
    if lease:
        request.lease_duration.CopyFrom(seconds(lease))
    if ready_timeout:
        request.ready_timeout.CopyFrom(seconds(ready_timeout))
    return request


def summary(count: int, answer: pb.ReserveGPUsResponse) -> str:
    """The last lines: when they end, how many, what they and the cheapest cost, how to give them back."""
    parts = [f"{answer.reserved_count} of {count}"]
    unknown = sum(outcome.state == "unknown" for outcome in answer.outcomes)
    if unknown:
        parts.append(f"{unknown} of unknown fate, being looked for")
    if gone := sum(outcome.state in GONE for outcome in answer.outcomes):
        parts.append(f"{gone} given back or lost")
    parts.append(tables.costs(answer.price_per_hour))
    if answer.cheapest_alternative_per_hour:
        parts.append(f"cheapest alternative {tables.hourly(answer.cheapest_alternative_per_hour)}")
    parts.append(f"gpuproxy release {answer.reservation_id}")
    line = " · ".join(parts)
    if end := tables.moment(answer.expires_at):
        line = f"given back by itself at {end}; gpuproxy extend {answer.reservation_id} moves that\n{line}"
    if _STOPPED in answer.message:
        said = f"{answer.message}\ngpuproxy show {answer.reservation_id} shows what the provider says of each machine"
        return f"{said}\n{line}"
    return line if answer.reserved_count == count else f"{answer.message}\n{line}"


def nothing_held(request_id: str, answer: pb.ReserveGPUsResponse) -> str:
    """Why the caller has no machine, of an answer that is no refusal: not yet, or, of a repeated call, not any more."""
    if _is_open(answer):
        return (
            "Not done: no machine is rented yet, and the outcome is still pending. This resolves by itself: "
            f"gpuproxy show {answer.reservation_id} shows the outcome."
        )
    ends = {outcome.reason or outcome.state.upper() for outcome in answer.outcomes if outcome.state in GONE}
    why = f" ({', '.join(sorted(ends))})" if ends else ""
    stopped = f" {answer.message}" if _STOPPED in answer.message else ""
    return (
        f"Nothing is held: request id {request_id} is that of reservation {answer.reservation_id}, which is over: "
        f"{answer.state}{why}.{stopped} "
        f"gpuproxy show {answer.reservation_id} says more; a new rental needs another request id."
    )


def _tell(voice: Voice, request: pb.ReserveGPUsRequest, answer: pb.ReserveGPUsResponse) -> None:
    """The sum, unless it would be that of a reservation that is over; then that, on stderr."""
    if answer.reserved_count or _is_open(answer):
        voice.say(summary(request.count, answer))
    if not answer.reserved_count:
        whisper(nothing_held(request.request_id, answer))


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
            + (f" (turned away: {rejected})" if rejected else ""),
            f"would cost {tables.costs(sum(pick.price_per_hour for pick in decision.picks))}; nothing was rented",
        ]
    )


def _ready_seconds(request: pb.ReserveGPUsRequest) -> float:
    return request.ready_timeout.ToTimedelta().total_seconds() or 900.0


def _public_key(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise click.UsageError(f"--ssh-key {path}: {error.strerror}") from None
    except UnicodeError:
        raise click.UsageError(f"--ssh-key {path}: is not a public key: it is not text") from None
