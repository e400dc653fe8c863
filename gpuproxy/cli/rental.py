"""One ReserveGPUs call under way: its request id is said first, then a line for every change of a machine.

Whatever becomes of the call, of the output or of this process, what exists is said and how to give it back. A signal
stops new rentals, not those that exist; an output that takes nothing stops neither, the rest is said on stderr.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import click
import grpc

from gpuproxy.cli import tables
from gpuproxy.cli.connection import Connection, ServerRefused
from gpuproxy.cli.ending import drop_stdout, whisper
from gpuproxy.cli.machines import by_request_id
from gpuproxy.cli.stopping import Stop
from gpuproxy.v1 import gpuproxy_pb2 as pb

_POLL_SECONDS = 0.5
OPEN = frozenset({"pending", "unknown"})
"""Outcomes that are not known yet."""
_WAITING = "waiting: "
"""How the status message of a create begins that the provider refused for now and that will be sent again."""
_READY = ", ready"
_LOST = frozenset({"DEADLINE_EXCEEDED", "UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"})
"""Errors after which machines may exist."""


class Voice:
    """Says what the user asked for on stdout, and on stderr from the first time on that stdout does not take it."""

    def __init__(self) -> None:
        self.lost = False

    def say(self, text: str) -> None:
        """Never raises for an output that takes nothing."""
        if not self.lost:
            try:
                click.echo(text)
            except OSError as error:
                self.lost = True
                drop_stdout()
                whisper(f"Standard output can't be written ({error.strerror}); the rest is said here.")
        if self.lost:
            whisper(text)


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
            # An answer names every machine "reserved", whether it is ready or not: that takes nothing back.
            if self._seen.get(outcome.lease_id) not in (line, f"{line}{_READY}"):
                self._seen[outcome.lease_id] = line
                self._say(line)


def rent(
    connection: Connection, request: pb.ReserveGPUsRequest, limit: float, voice: Voice, stop: Stop
) -> pb.ReserveGPUsResponse:
    """The answer; raises ServerRefused, or SystemExit for a signal, once it is said what exists."""
    connection.server_now()  # nobody there: say so before an id is made up that could be looked for
    _say_id(request.request_id, as_json=connection.as_json)
    progress = Progress(lambda line: None if connection.as_json else voice.say(line))
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
            whisper(f"request id {request.request_id}: gpuproxy show {request.request_id} says what exists")
        raise failure from None
    progress.show(answer.outcomes, answer.reserved_instances)
    return answer


def _say_id(request_id: str, *, as_json: bool) -> None:
    """Before anything is rented, to where nobody cuts it off; raises OSError, and nothing is rented then."""
    said = json.dumps({"request_id": request_id}) if as_json else f"request id {request_id}"
    click.echo(said, err=True)


def _so_far(connection: Connection, request_id: str) -> pb.Reservation | None:
    with suppress(ServerRefused):  # the call itself says what is wrong
        return by_request_id(connection, request_id, pages=1, poll=True)
    return None


def _may_exist(connection: Connection, failure: ServerRefused, request_id: str) -> bool:
    """False where the server itself refused and has no reservation under this id."""
    if not (failure.error.reason or failure.error.trace_id):
        return True
    try:
        return by_request_id(connection, request_id, pages=1) is not None
    except ServerRefused:
        return True


def _wait(call: "grpc.Future[pb.ReserveGPUsResponse]", stop: Stop, span: float) -> None:
    """Until the call ends or somebody wants an end, `span` at most."""
    until = time.monotonic() + span
    while not call.done() and not stop and time.monotonic() < until:
        time.sleep(0.02)


def _stopped(connection: Connection, request_id: str, stop: Stop) -> None:
    whisper(f"\n{stop}: no new rental is started. request id {request_id}")
    try:
        found = by_request_id(connection, request_id, pages=1)
    except ServerRefused as failure:
        whisper(f"{failure.message}\nWhat exists is kept: gpuproxy show {request_id}")
        return
    if found is None:
        whisper("Nothing was rented.")
        return
    Progress(whisper).show(found.outcomes, found.instances)
    whisper(f"What exists is kept. To give it back: gpuproxy release {found.reservation_id}")


def _line(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    what = f"{outcome.num_gpus} x {machine.gpu_model}" if machine else f"{outcome.num_gpus} x GPU"
    line = f"#{outcome.attempt} {outcome.offer_id} on {outcome.host_id}, {what}: {_state(outcome, machine)}"
    if outcome.reason:
        line += f" ({outcome.reason})"
    return line


def _state(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    if outcome.state == "pending":
        # The server writes why a create waits where the provider's own words stand otherwise.
        return outcome.status_message if outcome.status_message.startswith(_WAITING) else "being rented"
    if outcome.state != "reserved":
        return outcome.state
    price = f" for {tables.hourly(machine.price_per_hour)}" if machine else ""
    ready = _READY if machine and machine.status == "active" else ""
    return f"reserved as {outcome.instance_id}{price}{ready}"
