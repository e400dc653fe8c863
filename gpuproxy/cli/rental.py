"""One ReserveGPUs call: its request id is printed first, then a line for each change of a machine.

However the call ends, the output names the machines that exist and the command that releases them. A signal stops new
rentals but keeps the existing machines. If stdout can't be written, renting continues and the output goes to stderr.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import click
import grpc

from gpuproxy.cli import tables
from gpuproxy.cli.connection import Connection, ServerRefused
from gpuproxy.cli.ending import drop_stdout, print_error
from gpuproxy.cli.machines import by_request_id
from gpuproxy.cli.stopping import Stop
from gpuproxy.v1 import gpuproxy_pb2 as pb

_POLL_SECONDS = 0.5
OPEN = frozenset({"pending", "unknown"})
"""States of outcomes that are not known yet."""
_WAITING = "waiting: "
"""The start of the status message of a create that the provider refused for now. It will be sent again."""
_READY = ", ready"
_LOST = frozenset({"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"})
"""Error codes after which machines may exist."""


class Output:
    """Prints to stdout. After the first failed write it prints to stderr."""

    def __init__(self) -> None:
        self.lost = False

    def line(self, text: str) -> None:
        """Print one line. Never raises OSError."""
        if not self.lost:
            try:
                click.echo(text)
            except OSError as error:
                self.lost = True
                drop_stdout()
                print_error(
                    f"Standard output can't be written ({error.strerror}). The rest of the output follows here."
                )
        if self.lost:
            print_error(text)


class Progress:
    """Prints each change of an outcome once."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print_line = print_line
        self._seen: dict[str, str] = {}

    def show(self, outcomes: Sequence[pb.Outcome], machines: Sequence[pb.GPUInstance]) -> None:
        """Print a line for each outcome that has changed since the last call."""
        by_lease = {machine.lease_id: machine for machine in machines}
        for outcome in outcomes:
            line = _line(outcome, by_lease.get(outcome.lease_id))
            # The final answer calls every machine "reserved", even a ready one: that is no change.
            if self._seen.get(outcome.lease_id) not in (line, f"{line}{_READY}"):
                self._seen[outcome.lease_id] = line
                self._print_line(line)


def rent(
    connection: Connection, request: pb.ReserveGPUsRequest, limit: float, output: Output, stop: Stop
) -> pb.ReserveGPUsResponse:
    """The answer. `limit`: the call's timeout in seconds.

    Raises ServerRefused, or SystemExit after a signal, when it has printed which machines exist.
    """
    connection.server_now()  # if no server answers, end before a request id is printed
    _print_request_id(request.request_id, as_json=connection.as_json)
    progress = Progress(lambda line: None if connection.as_json else output.line(line))
    call = connection.stub.ReserveGPUs.future(request, timeout=limit, metadata=connection.metadata)
    while not call.done() and not stop:
        _wait(call, stop, _POLL_SECONDS)
        if not call.done() and not stop and (so_far := _so_far(connection, request.request_id)):
            progress.show(so_far.outcomes, so_far.instances)
    if not call.done():
        call.cancel()
        _stopped(connection, request.request_id, stop)
        raise SystemExit(stop.exit_code)
    try:
        answer = call.result()
    except grpc.RpcError as error:
        failure = connection.failure(error)
        if failure.error.code in _LOST and _may_exist(connection, failure, request.request_id):
            print_error(f"Machines may exist. To list them: gpuproxy show {request.request_id}")
        raise failure from None
    progress.show(answer.outcomes, answer.reserved_instances)
    return answer


def _print_request_id(request_id: str, *, as_json: bool) -> None:
    """Print the id to stderr, before anything is rented. If that fails, it raises OSError and nothing is rented."""
    click.echo(json.dumps({"request_id": request_id}) if as_json else f"request id {request_id}", err=True)


def _so_far(connection: Connection, request_id: str) -> pb.Reservation | None:
    with suppress(ServerRefused):  # the call itself will report the error
        return by_request_id(connection, request_id, pages=1, poll=True)
    return None


def _may_exist(connection: Connection, failure: ServerRefused, request_id: str) -> bool:
    """False only if the server itself refused the call and has no reservation with this request id."""
    if not (failure.error.reason or failure.error.trace_id):
        return True
    try:
        return by_request_id(connection, request_id, pages=1) is not None
    except ServerRefused:
        return True


def _wait(call: "grpc.Future[pb.ReserveGPUsResponse]", stop: Stop, span: float) -> None:
    """Wait until the call ends or a signal arrives, at most `span` seconds."""
    until = time.monotonic() + span
    while not call.done() and not stop and time.monotonic() < until:
        time.sleep(0.02)


def _stopped(connection: Connection, request_id: str, stop: Stop) -> None:
    print_error(f"\n{stop}. No new rental is started. Request id: {request_id}")
    try:
        found = by_request_id(connection, request_id, pages=1)
    except ServerRefused as failure:
        print_error(f"{failure.message}\nExisting machines are kept. To list them: gpuproxy show {request_id}")
        return
    if found is None:
        print_error("Nothing was rented.")
        return
    Progress(print_error).show(found.outcomes, found.instances)
    print_error(f"Existing machines are kept. To release them: gpuproxy release {found.reservation_id}")


def _line(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    what = f"{outcome.num_gpus} x {machine.gpu_model}" if machine else f"{outcome.num_gpus} x GPU"
    line = f"#{outcome.attempt} {outcome.offer_id} on {outcome.host_id}, {what}: {_state(outcome, machine)}"
    if outcome.reason:
        line += f" ({outcome.reason})"
    return line


def _state(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    if outcome.state == "pending":
        # While a create waits, the server puts the reason into status_message instead of the provider's message.
        return outcome.status_message if outcome.status_message.startswith(_WAITING) else "being rented"
    if outcome.state != "reserved":
        return outcome.state
    price = f" for {tables.hourly(machine.price_per_hour)}" if machine else ""
    ready = _READY if machine and machine.status == "active" else ""
    return f"reserved as {outcome.instance_id}{price}{ready}"
