"""`gpuproxy reserve COUNT`: one ReserveGPUs call, a line for every change of a machine while it runs, and the sum.

The call carries a request id of its own, so whatever becomes of it or of this process is found by that id. Ctrl-C
stops new rentals, not those that exist: it prints what there is and how to give it back.
"""

import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
import grpc

from gpuproxy.cli import tables
from gpuproxy.cli.arguments import DurationType, IntegerType
from gpuproxy.cli.connection import Connection, NobodyAnswers, ServerRefused, client_command
from gpuproxy.cli.machines import by_request_id, seconds
from gpuproxy.v1 import gpuproxy_pb2 as pb

_POLL_SECONDS = 0.5
_INTERRUPTED = 130
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
            click.option("--provider", default="", help='"vast.ai", "io.net", ... (default: all).'),
            click.option("--gpu", "gpu_model", default="", help='A model in any spelling: "RTX 4090", H100.'),
            click.option("--min-vram", type=float, default=0.0, metavar="GB", help="Memory per GPU, at least."),
            click.option("--max-price", type=float, default=0.0, metavar="USD", help="Per GPU-hour, all-in, at most."),
            click.option("--location", default="", help="A country code or a part of the place: DE, Texas."),
            click.option("--min-reliability", type=float, default=0.0, help="0-1."),
            click.option("--min-cuda", type=float, default=0.0, help="CUDA version of the host, at least."),
            click.option("--exclude-host", "exclude_hosts", multiple=True, help="A host to avoid (repeatable)."),
            click.option(
                "--verified/--unverified", "verified_only", default=None, help="Default: verified hosts only."
            ),
            click.option("--strategy", default="", help="Load balancing strategy for this call."),
            click.option("--packing", default="", help="any (default), single, spread, pack, single_host."),
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
            click.option("--image", default="", help="A Docker image (default: PyTorch)."),
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
            click.option("--onstart", default="", help="A shell script for the start of the container."),
            click.option("--run-mode", default="", help="ssh (default), entrypoint, jupyter."),
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
                help="Give back after: 90m, 2h, 7d (default: never).",
            ),
            click.option(
                "--label", "labels", type=PairType(), multiple=True, metavar="K=V", help="My own (repeatable)."
            ),
            click.option(
                "--wait-ready", is_flag=True, help="Wait until the machines answer, not only until they exist."
            ),
            click.option("--ready-timeout", type=DurationType(), default=0.0, help="Default: 15m."),
            click.option("--on-not-ready", default="", help="replace (default) or keep."),
            click.option("--keep-late", is_flag=True, help="Keep what turns up after this command has ended."),
            click.option(
                "--request-id", default="", help="The same id again is the same reservation (default: a new one)."
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
        answer = connection.call(connection.stub.ReserveGPUs, request, timeout=limit)
    else:
        answer = _rent(connection, request, limit)
    if connection.as_json:
        connection.print_json(answer)
    elif request.dry_run:
        click.echo(_dry_run(answer))
    else:
        click.echo(summary(request.count, answer))


def build_request(  # the few options that are not named after their field come apart
    *,
    env: Iterable[tuple[str, str]] = (),
    labels: Iterable[tuple[str, str]] = (),
    ssh_keys: Iterable[Path] = (),
    lease: float = 0.0,
    ready_timeout: float = 0.0,
    wait_ready: bool = False,
    request_id: str = "",
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
    """The last line: how many, what they cost, what the cheapest would have cost, how to give them back."""
    parts = [f"{answer.reserved_count} of {count}"]
    unknown = sum(outcome.state == "unknown" for outcome in answer.outcomes)
    if unknown:
        parts.append(f"{unknown} of unknown fate, being looked for")
    parts.append(tables.costs(answer.price_per_hour))
    if answer.cheapest_alternative_per_hour:
        parts.append(f"cheapest alternative {tables.hourly(answer.cheapest_alternative_per_hour)}")
    parts.append(f"gpuproxy release {answer.reservation_id}")
    line = " · ".join(parts)
    complete = answer.reserved_count == count
    return line if complete else f"{answer.message}\n{line}"


class Progress:
    """Says each change of an outcome once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: dict[str, str] = {}

    def show(self, outcomes: Sequence[pb.Outcome], machines: Sequence[pb.GPUInstance]) -> None:
        """A line for each outcome that is not as it was."""
        by_lease = {machine.lease_id: machine for machine in machines}
        for outcome in outcomes:
            line = _line(outcome, by_lease.get(outcome.lease_id))
            if self._seen.get(outcome.lease_id) != line:
                self._seen[outcome.lease_id] = line
                self._say(line)


def _rent(connection: Connection, request: pb.ReserveGPUsRequest, limit: float) -> pb.ReserveGPUsResponse:
    connection.server_now()  # nobody there: say so before an id is made up that could be looked for
    quiet = connection.as_json
    progress = Progress(lambda line: None if quiet else click.echo(line))
    try:
        with _ctrl_c() as pressed:
            call = connection.stub.ReserveGPUs.future(request, timeout=limit, metadata=connection.metadata)
            while not call.done() and not pressed.is_set():
                _wait(call, pressed, _POLL_SECONDS)
                if not call.done() and (so_far := by_request_id(connection, request.request_id, pages=1)):
                    progress.show(so_far.outcomes, so_far.instances)
        if not call.done():
            call.cancel()
            _interrupted(connection, request.request_id)
            raise SystemExit(_INTERRUPTED)
        answer = call.result()
    except grpc.RpcError as error:
        failure = connection.failure(error)
        lost = failure.error.code in ("DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED")
        if lost and _may_exist(connection, failure, request.request_id):
            click.echo(
                f"request id {request.request_id}: gpuproxy show {request.request_id} says what exists", err=True
            )
        raise failure from None
    progress.show(answer.outcomes, answer.reserved_instances)
    return answer


def _may_exist(connection: Connection, failure: ServerRefused, request_id: str) -> bool:
    """False where the server itself refused and has no reservation under this id."""
    if not (failure.error.reason or failure.error.trace_id):
        return True
    try:
        return by_request_id(connection, request_id, pages=1) is not None
    except ServerRefused:
        return True


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Set by Ctrl-C instead of an exception, which could hit the gRPC library in the middle of its own work.

    A second Ctrl-C is as usual.
    """
    pressed = threading.Event()

    def press(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(call: "grpc.Future[pb.ReserveGPUsResponse]", pressed: threading.Event, span: float) -> None:
    """Until the call ends or Ctrl-C is pressed, `span` at most."""
    until = time.monotonic() + span
    while not call.done() and not pressed.is_set() and time.monotonic() < until:
        time.sleep(0.02)


def _interrupted(connection: Connection, request_id: str) -> None:
    click.echo(f"\nInterrupted: no new rental is started. request id {request_id}", err=True)
    try:
        found = by_request_id(connection, request_id, pages=1)
    except (ServerRefused, NobodyAnswers) as failure:
        click.echo(failure.message, err=True)
        click.echo(f"What exists is kept: gpuproxy show {request_id}", err=True)
        return
    if found is None:
        click.echo("Nothing was rented.", err=True)
        return
    for outcome in found.outcomes:
        machine = next((one for one in found.instances if one.lease_id == outcome.lease_id), None)
        click.echo(_line(outcome, machine), err=True)
    click.echo(f"What exists is kept. To give it back: gpuproxy release {found.reservation_id}", err=True)


def _line(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    what = f"{outcome.num_gpus} x {machine.gpu_model}" if machine else f"{outcome.num_gpus} x GPU"
    line = f"#{outcome.attempt} {outcome.offer_id} on {outcome.host_id}, {what}: {_state(outcome, machine)}"
    if outcome.reason:
        line += f" ({outcome.reason})"
    return line


def _state(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    if outcome.state == "pending":
        return "being rented"
    if outcome.state != "reserved":
        return outcome.state
    price = f" for {tables.hourly(machine.price_per_hour)}" if machine else ""
    ready = ", ready" if machine and machine.status == "active" else ""
    return f"reserved as {outcome.instance_id}{price}{ready}"


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
