"""`reserve` watches its reservation. It goes on after a broken stream and a broken call, and Ctrl-C always ends it."""

import _thread
import subprocess
import threading

import grpc
import pytest

from gpuproxy.cli import rental
from gpuproxy.v1 import gpuproxy_pb2 as pb
from tests.cli.processes import Launch
from tests.cli.world import Run, World

pytestmark = pytest.mark.long

MACHINE = "#1 vast-1 on vast.ai/1, 1 x RTX 4090: reserved as 7001 for $0.31/h"


class Held:
    """Keeps ReserveGPUs from answering until `go_on`."""

    def __init__(self, world: World) -> None:
        self._answer = threading.Event()
        self.go_on = self._answer.set
        world.during_reserve = self._wait

    def _wait(self, _: grpc.ServicerContext) -> None:
        assert self._answer.wait(300)


def line_of(process: "subprocess.Popen[str]") -> str:
    """The next line of stdout, read while the command runs."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


@pytest.fixture
def held(world: World) -> Held:
    return Held(world)


def test_a_machine_is_printed_while_others_are_still_being_rented(launch: Launch, held: Held) -> None:
    process = launch("reserve", "2", unbuffered="1")
    assert line_of(process) == MACHINE
    held.go_on()
    assert [line.split()[0] for line in process.communicate(timeout=1200)[0].splitlines()] == ["#2", "2"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("waiting: vast.ai wants fewer creates", "waiting: vast.ai wants fewer creates"),
        ("", "being rented"),
        ("pulling", "being rented"),
    ],
)
def test_a_create_that_waits_is_shown_as_waiting_and_any_other_as_being_rented(
    launch: Launch, world: World, held: Held, said: str, shown: str
) -> None:
    process = launch("reserve", "2", unbuffered="1")
    assert line_of(process) == MACHINE
    late = pb.Outcome(attempt=2, lease_id="lease-2", offer_id="vast-2", host_id="vast.ai/2", num_gpus=1)
    late.state, late.status_message = "pending", said
    world.reservations[0].outcomes.append(late)
    world.changed()
    assert line_of(process) == f"#2 vast-2 on vast.ai/2, 1 GPU: {shown}"
    del world.reservations[0].outcomes[-1]
    held.go_on()
    assert line_of(process) == "#2 vast-2 on vast.ai/2, 1 x RTX 4090: reserved as 7002 for $0.31/h"


def test_a_ready_machine_is_printed_with_what_was_seen(launch: Launch, world: World, held: Held) -> None:
    process = launch("reserve", "1", "--wait-ready", unbuffered="1")
    assert line_of(process) == MACHINE
    machine = world.reservations[0].instances[0]
    machine.status, machine.ready_evidence = "active", "ssh greets"
    world.changed()
    assert line_of(process) == f"{MACHINE}, ready (ssh greets)"
    held.go_on()
    assert line_of(process).startswith("1 of 1 · ")


def test_a_broken_stream_goes_on_where_it_ended(launch: Launch, world: World, held: Held) -> None:
    world.break_watch = True
    process = launch("reserve", "1", unbuffered="1")
    assert line_of(process) == MACHINE
    for _stream in range(2):  # the first one broke after its first message
        assert world.watching.acquire(timeout=1200)
    world.reservations[0].instances[0].status = "active"
    world.changed()
    assert line_of(process) == f"{MACHINE}, ready"
    held.go_on()
    assert process.communicate(timeout=1200)[1].count("\n") == 1  # only the request id
    assert world.watches[0] == ""
    assert world.watches[1] != ""


def test_the_reservation_is_looked_up_once_and_not_polled(launch: Launch, world: World, held: Held) -> None:
    process = launch("reserve", "1", unbuffered="1")
    assert line_of(process) == MACHINE
    looks = list(world.polls)
    machine = world.reservations[0].instances[0]
    for number in range(3):
        machine.price_per_hour = number
        world.changed()
        line_of(process)
    held.go_on()
    process.communicate(timeout=1200)
    assert world.polls == looks
    assert all(looks)


def test_a_call_whose_connection_breaks_is_repeated_with_the_same_request_id(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rental, "_RECONNECT_PAUSE_SECONDS", 0.0)

    def breaks(context: grpc.ServicerContext) -> None:
        world.during_reserve = lambda _: None
        world.machines.clear()
        world.reservations.clear()
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    world.during_reserve = breaks
    result = run("reserve", "2")
    assert result.exit_code == 0, result.stderr
    assert len({request.request_id for request in world.requests}) == 1
    assert len(world.requests) == 2
    assert "broke. The call is repeated with the same request id" in result.stderr


def test_after_a_repeat_readiness_is_still_waited_for(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rental, "_RECONNECT_PAUSE_SECONDS", 0.0)

    def breaks(context: grpc.ServicerContext) -> None:
        world.answer = pb.ReserveGPUsResponse(
            reserved_instances=world.machines, reserved_count=1, reservation_id="res-1", state="starting",
            outcomes=world.reservations[0].outcomes, price_per_hour=0.31,
        )  # fmt: skip
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def becomes_ready() -> None:
        assert world.watching.acquire(timeout=1200)
        reservation = world.reservations[0]
        reservation.reserved_count = reservation.ready_count = 1
        reservation.instances[0].status = "active"
        world.changed()

    world.during_reserve = breaks
    thread = threading.Thread(target=becomes_ready)
    thread.start()
    result = run("reserve", "1", "--wait-ready")
    thread.join()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-2] == f"{MACHINE}, ready"
    assert len(world.requests) == 3  # the broken one, its repeat, and one for the state at the end


def test_a_server_that_does_not_come_back_is_exit_code_3(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rental, "_RECONNECT_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(rental, "_RECONNECT_SECONDS", 0.0)
    world.during_reserve = lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    result = run("reserve", "2", "--request-id", "mine")
    assert result.exit_code == 3
    assert "Machines may exist. To list them: gpuproxy show mine" in result.stderr


def test_ctrl_c_is_130_also_if_the_connection_breaks_at_the_same_moment(run: Run, world: World) -> None:
    def interrupted(context: grpc.ServicerContext) -> None:
        _thread.interrupt_main()
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    world.during_reserve = interrupted
    result = run("reserve", "3", "--request-id", "mine")
    assert result.exit_code == 130, result.stderr
    assert "Interrupted. No new rental is started. Request id: mine" in result.stderr
    assert MACHINE in result.stderr
    assert "To release them: gpuproxy release res-1" in result.stderr


def test_ctrl_c_before_anything_is_rented_is_130_at_once(run: Run, world: World) -> None:
    def interrupted(context: grpc.ServicerContext) -> None:
        _thread.interrupt_main()
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    world.during_health_check = interrupted
    result = run("reserve", "3")
    assert (result.exit_code, result.stderr) == (130, "\nInterrupted.\n")
    assert world.requests == []
