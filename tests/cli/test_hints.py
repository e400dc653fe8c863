"""Hints for a wrong id, for a repeated command, and for a prompt without an answer."""

import socket
import threading
from collections.abc import Iterator

import pytest
from google.rpc import code_pb2

from tests.cli.world import NOW, Run, World, error


@pytest.fixture
def http_port() -> Iterator[int]:
    """The port of a server that answers every request with HTTP/1.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(1000)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_an_unconfirmed_release_names_the_option_and_the_remaining_cost(run: Run, world: World) -> None:
    world.rent(1)
    world.reservations[0].price_per_hour = 0.31
    for command in (("release", "res-1"), ("destroy", "7001")):
        result = run(*command)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-2:] == [
            "Confirmation is needed, but stdin has ended. Use --yes in scripts.",
            "Nothing was changed. The machine still costs $0.31/h.",
        ]
    assert (world.reservations[0].state, world.destroyed) == ("pending", [])


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [
        ("released", "EXPIRED", ("released (EXPIRED)", "1 machine: 1 released · $0.00 paid in total")),
        ("released", "RELEASED", ("released", "1 machine: 1 released · $0.00 paid in total")),
        ("releasing", "", ("releasing", "1 machine: 1 releasing · $0.00 paid so far")),
        ("failed", "", ("failed", "no machine was rented, nothing was paid")),
    ],
)
def test_a_second_release_does_not_ask_and_shows_the_state(
    run: Run, world: World, state: str, reason: str, said: tuple[str, str]
) -> None:
    text, paid = said
    world.rent(1)
    world.reservations[0].state, world.reservations[0].reason = state, reason
    world.reservations[0].outcomes[0].state = state
    del world.reservations[0].instances[:]
    result = run("release", "res-1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"res-1 already {text}, nothing was changed · {paid}\n"


@pytest.mark.parametrize("command", [("release", "--yes"), ("extend", "--for", "2h")])
def test_a_machine_id_in_place_of_a_reservation_id_gets_a_hint(
    run: Run, world: World, command: tuple[str, ...]
) -> None:
    world.rent(1)
    result = run(*command, "7001")
    assert result.exit_code == 1
    assert (
        "7001 is a machine. Its reservation is res-1. To destroy only this machine: gpuproxy destroy 7001"
        in result.stderr
    )
    assert (
        "To list the reservations: gpuproxy reservations. To list the machines: gpuproxy ps"
        in run(*command, "res-9").stderr
    )


def test_a_reservation_id_in_place_of_a_machine_id_gets_a_hint(run: Run, world: World) -> None:
    world.rent(1)
    result = run("destroy", "res-1", "--yes")
    assert result.exit_code == 1
    assert "res-1 is a reservation. gpuproxy release res-1 releases all of its machines." in result.stderr
    assert "is a reservation" not in run("destroy", "res-9", "--yes").stderr


def test_a_released_machine_is_shown(run: Run, world: World) -> None:
    world.rent(1, status="released").cost_so_far = 0.5
    text = run("show", "7001").stdout
    assert text.startswith("7001 released on vast.ai")
    assert "price       $0.50 in total" in text
    assert "reservation res-1" in text
    assert "no end" not in text


def test_extend_says_if_there_was_no_end_before(run: Run, world: World) -> None:
    world.rent(1)
    new = ". It had no end before. Its machines are released at that time."
    assert run("extend", "res-1", "--for", "2h", "--yes").stdout == f"res-1 ends at 2026-01-02 05:04:05Z{new}\n"
    assert run("extend", "res-1", "--for", "3h").stdout == "res-1 ends at 2026-01-02 06:04:05Z\n"
    assert len(world.extended) == 2
    assert min(world.extended) > NOW


def test_a_server_that_speaks_http_is_not_reported_as_unreachable(run: Run, http_port: int) -> None:
    result = run("list", "--server", f"127.0.0.1:{http_port}")
    assert result.exit_code == 3
    assert (
        f"127.0.0.1:{http_port} speaks HTTP, not gRPC. The server prints the HOST:PORT of both when it starts"
        in result.stderr
    )


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://gpus.example.org"])
def test_a_url_is_not_a_grpc_address(run: Run, url: str) -> None:
    said = f"must be the HOST:PORT of gRPC, for example localhost:9090, not {url}"
    for name, result in (
        ("--server", run("list", "--server", url)),
        ("GPUPROXY_SERVER", run("list", GPUPROXY_SERVER=url)),
    ):
        assert (result.exit_code, f"{name}: {said}" in result.stderr) == (2, True)


def test_a_violation_equal_to_the_message_is_printed_once(run: Run, world: World) -> None:
    whole = "must be one of " + ", ".join(f"strategy_{number}" for number in range(20))
    world.refuse_with = error(
        code_pb2.INVALID_ARGUMENT,
        f"strategy: {whole}",
        "INVALID_ARGUMENT",
        {"strategy": whole[:60] + "…", "image": "bad"},
    )
    lines = run("reserve", "1").stderr.splitlines()
    assert lines[1:3] == [f"strategy: {whole}", "  image: bad"]


@pytest.mark.parametrize("address", ["localhost", ":::", "::1:9090", "localhost:", "local host:9090", "localhost:x"])
def test_an_address_without_a_host_or_a_port_is_wrong_usage(run: Run, address: str) -> None:
    result = run("list", "--server", address)
    assert (result.exit_code, "must be the HOST:PORT of gRPC" in result.stderr) == (2, True)


@pytest.mark.parametrize("words", [("logs",), ("stop",), ("start",), ("destroy", "--yes")])
def test_an_unknown_machine_gets_a_hint(run: Run, world: World, words: tuple[str, ...]) -> None:
    assert "To list your machines: gpuproxy ps" in run(*words, "9999").stderr
    world.rent(1)
    assert "res-1 is a reservation. " in run(*words, "res-1").stderr


def test_the_numbers_of_a_release_add_up_to_all_machines(run: Run, world: World) -> None:
    for number, state in enumerate(("released", "releasing", "lost", "unknown", "failed", "not_attempted"), start=1):
        world.rent(number)
        world.reservations[0].outcomes[-1].state = state
    world.reservations[0].cost_so_far = 0.1234
    assert run("release", "res-1", "--yes").stdout == (
        "res-1 releasing · 4 machines: 1 released, 1 releasing, 1 lost, 1 with an unknown outcome"
        " · $0.1234 paid so far\n"
    )


def test_a_machine_that_is_named_twice_is_destroyed_once(run: Run, world: World) -> None:
    world.rent(1).cost_so_far = 0.25
    world.rent(2).cost_so_far = 0.5
    result = run("destroy", "7001", "7002", "7001", "--yes")
    assert world.destroyed == [("vast.ai", "7001"), ("vast.ai", "7002")]
    assert result.stdout.splitlines()[-1] == "2 machines: 2 releasing · $0.75 paid so far"
