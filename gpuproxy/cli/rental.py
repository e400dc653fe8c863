"""One rental by ReserveGPUs: its request id is printed first, then a line for each change of a machine.

However the call ends, the output names the machines that exist and the command that releases them. A signal stops new
rentals but keeps the existing machines. If stdout can't be written, renting continues and the output goes to stderr.
If the connection breaks, the call is repeated with the same request id, which never rents twice.
"""

import json
import time
from collections.abc import Callable, Sequence

import click
import grpc

from gpuproxy.cli import tables
from gpuproxy.cli.connection import Connection, ServerRefused
from gpuproxy.cli.ending import drop_stdout, print_error
from gpuproxy.cli.following import Follower
from gpuproxy.cli.machines import by_request_id
from gpuproxy.cli.readiness import evidence
from gpuproxy.cli.stopping import Stop
from gpuproxy.client.errors import GPUProxyError
from gpuproxy.client.watching import is_ready
from gpuproxy.v1 import gpuproxy_pb2 as pb

_LOOK_SECONDS = 0.1
"""A signal is noticed after this time at most."""
_RECONNECT_SECONDS = 30.0
"""For this long the call is repeated after the connection has broken."""
_RECONNECT_PAUSE_SECONDS = 1.0
_READ_SECONDS = 10.0
_STABLE_SECONDS = 60.0
"""After a call that lasted this long, a broken connection is a new one."""
OPEN = frozenset({"pending", "unknown"})
"""States of outcomes that are not known yet."""
_NOT_RENTED = frozenset({"not_attempted", "failed"})
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
            seen = self._seen.get(outcome.lease_id, "")
            # The final answer calls every machine "reserved", even a ready one: that is no change.
            if seen != line and not seen.startswith(f"{line}{_READY}"):
                self._seen[outcome.lease_id] = line
                self._print_line(line)


def rent(
    connection: Connection, request: pb.ReserveGPUsRequest, limit: float, output: Output, stop: Stop
) -> pb.ReserveGPUsResponse:
    """The answer. `limit`: the call's timeout in seconds.

    Raises ServerRefused, or SystemExit after a signal, when it has printed which machines exist.
    """
    _print_request_id(request.request_id, as_json=connection.as_json)
    progress = Progress(lambda line: None if connection.as_json else output.line(line))
    try:
        answer = _Rental(connection, request, limit, progress, stop).answer()
    except ServerRefused as failure:
        if stop:  # whatever ended the call, the user has ended the command
            _stopped(connection, request.request_id, stop)
            raise SystemExit(stop.exit_code) from None
        if failure.error.code in _LOST and _may_exist(connection, failure, request.request_id):
            print_error(f"Machines may exist. To list them: gpuproxy show {request.request_id}")
        raise
    if answer is None:
        _stopped(connection, request.request_id, stop)
        raise SystemExit(stop.exit_code)
    progress.show(answer.outcomes, answer.reserved_instances)
    return answer


class _Rental:
    """The ReserveGPUs call and its repeats. `limit` in seconds is for all of them together."""

    def __init__(
        self, connection: Connection, request: pb.ReserveGPUsRequest, limit: float, progress: Progress, stop: Stop
    ) -> None:
        self._connection = connection
        self._request = request
        self._until = time.monotonic() + limit
        self._progress = progress
        self._stop = stop
        self._latest: pb.Reservation | None = None

    def answer(self) -> pb.ReserveGPUsResponse | None:
        """The answer; None if a signal came first. Raises ServerRefused."""
        reconnect_until: float | None = None
        with Follower(self._connection, self._request.request_id) as follower:
            while not self._stop:
                began = time.monotonic()
                try:
                    answer = self._once(follower)
                except ServerRefused as failure:
                    now = time.monotonic()
                    if not _connection_broke(failure) or now >= self._until:
                        raise
                    if reconnect_until is None or now - began > _STABLE_SECONDS:
                        reconnect_until = now + _RECONNECT_SECONDS
                        self._announce_repeats()
                    elif now >= reconnect_until:
                        raise
                    self._follow(follower, time.monotonic() + _RECONNECT_PAUSE_SECONDS)
                    continue
                if reconnect_until is None or self._request.wait_for != "ready":
                    return answer
                # A repeated call is answered with the present state, so readiness is waited for here.
                self._follow(follower, self._until, until_ready=True)
                return None if self._stop else self._once(follower, at_least=_READ_SECONDS)
        return None

    def _announce_repeats(self) -> None:
        print_error(
            f"The connection to {self._connection.server} broke. The call is repeated with the same request id for "
            f"{_RECONNECT_SECONDS:.0f} s. This never rents twice."
        )

    def _once(self, follower: Follower, at_least: float = 0.0) -> pb.ReserveGPUsResponse | None:
        """The answer of one call; None if a signal came first, and then the call is cancelled.

        `at_least`: the shortest timeout in seconds, for a repeat that only reads.
        """
        timeout = max(self._until - time.monotonic(), at_least)
        stub, metadata = self._connection.stub, self._connection.metadata
        call = stub.ReserveGPUs.future(self._request, timeout=timeout, metadata=metadata)
        call.add_done_callback(lambda _: follower.wake())
        while not call.done() and not self._stop:
            self._show(follower, _LOOK_SECONDS)
        if not call.done():
            call.cancel()
            return None
        try:
            return call.result()
        except grpc.RpcError as error:
            raise self._connection.failure(error) from None

    def _follow(self, follower: Follower, until: float, *, until_ready: bool = False) -> None:
        """Show changes until that time. With `until_ready`, only until the machines are ready, or have ended."""
        while not self._stop and time.monotonic() < until and not (until_ready and _is_decided(self._latest)):
            self._show(follower, _LOOK_SECONDS)

    def _show(self, follower: Follower, seconds: float) -> None:
        for state in follower.states(seconds):
            self._latest = state
            self._progress.show(state.outcomes, state.instances)


def _is_decided(reservation: pb.Reservation | None) -> bool:
    """True if waiting for readiness can end."""
    try:
        return reservation is not None and is_ready(reservation)
    except GPUProxyError:
        return True


def _connection_broke(failure: ServerRefused) -> bool:
    """True if the call may not have reached the server, or its answer was lost on the way."""
    return failure.error.code == "UNAVAILABLE" and not (failure.error.reason or failure.error.trace_id)


def _print_request_id(request_id: str, *, as_json: bool) -> None:
    """Print the id to stderr, before anything is rented. If that fails, it raises OSError and nothing is rented."""
    click.echo(json.dumps({"request_id": request_id}) if as_json else f"request id {request_id}", err=True)


def _may_exist(connection: Connection, failure: ServerRefused, request_id: str) -> bool:
    """False only if the server itself refused the call and has no reservation with this request id."""
    if not (failure.error.reason or failure.error.trace_id):
        return True
    try:
        return by_request_id(connection, request_id) is not None
    except ServerRefused:
        return True


def _stopped(connection: Connection, request_id: str, stop: Stop) -> None:
    print_error(f"\n{stop}. No new rental is started. Request id: {request_id}")
    try:
        found = by_request_id(connection, request_id)
    except ServerRefused as failure:
        print_error(f"{failure.message}\nExisting machines are kept. To list them: gpuproxy show {request_id}")
        return
    if found is None:
        print_error("Nothing was rented.")
        return
    by_lease = {machine.lease_id: machine for machine in found.instances}
    for outcome in found.outcomes:
        print_error(_line(outcome, by_lease.get(outcome.lease_id), stopped=found.reservation_id))
    print_error(f"Existing machines are kept. To release them: gpuproxy release {found.reservation_id}")


def _line(outcome: pb.Outcome, machine: pb.GPUInstance | None, *, stopped: str = "") -> str:
    """One attempt in words. `stopped`: the id of the reservation whose call has been cancelled."""
    model = f" x {machine.gpu_model}" if machine else " GPU" if outcome.num_gpus == 1 else " GPUs"
    what = f"{outcome.num_gpus}{model}"
    line = f"#{outcome.attempt} {outcome.offer_id} on {outcome.host_id}, {what}: "
    line += (_stopped_state(outcome, stopped) if stopped else "") or _state(outcome, machine)
    if outcome.reason:
        line += f" ({outcome.reason})"
    return line


def _stopped_state(outcome: pb.Outcome, reservation_id: str) -> str:
    """The state after the call was cancelled: nothing is being rented any more. "": as in `_state`."""
    if outcome.state in OPEN:
        return f"may still appear; check: gpuproxy show {reservation_id}"
    return "not rented" if outcome.state in _NOT_RENTED else ""


def _state(outcome: pb.Outcome, machine: pb.GPUInstance | None) -> str:
    if outcome.state == "pending":
        # While a create waits, the server puts the reason into status_message instead of the provider's message.
        return outcome.status_message if outcome.status_message.startswith(_WAITING) else "being rented"
    if outcome.state != "reserved":
        return outcome.state
    price = f" for {tables.hourly(machine.price_per_hour)}" if machine else ""
    return f"reserved as {outcome.instance_id}{price}{_ready(machine)}"


def _ready(machine: pb.GPUInstance | None) -> str:
    """What is known about the machine's readiness: `, ready (ssh greets)`."""
    if machine is None or not (machine.status == "active" or machine.ready_evidence):
        return ""
    return f"{_READY}{evidence(machine)}"
