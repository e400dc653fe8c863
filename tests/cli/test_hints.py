"""What is said to who names the wrong thing, asks for it twice, or has nobody to answer."""

import socket
import threading
from collections.abc import Iterator

import pytest
from google.rpc import code_pb2

from tests.cli.world import NOW, Run, World, error


@pytest.fixture
def http_port() -> Iterator[int]:
    """Of a server that answers everything as HTTP/1 does."""
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


def test_a_release_that_nobody_can_confirm_names_the_option_and_what_goes_on(run: Run, world: World) -> None:
    world.rent(1)
    world.reservations[0].price_per_hour = 0.31
    for command in (("release", "res-1"), ("destroy", "7001")):
        result = run(*command)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-2:] == [
            "Nobody is there to answer: say --yes where this runs by itself.",
            "Nothing was changed. What is rented goes on costing $0.31/h.",
        ]
    assert (world.reservations[0].state, world.destroyed) == ("pending", [])


@pytest.mark.parametrize(
    ("state", "reason", "said"),
    [("released", "EXPIRED", "EXPIRED"), ("releasing", "", "releasing"), ("failed", "", "failed")],
)
def test_a_second_release_asks_nothing_and_says_what_is(
    run: Run, world: World, state: str, reason: str, said: str
) -> None:
    world.rent(1)
    world.reservations[0].state, world.reservations[0].reason = state, reason
    del world.reservations[0].instances[:]
    result = run("release", "res-1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f" since before ({said}): nothing was left to release · $0.00 in all" in result.stdout


@pytest.mark.parametrize("command", [("release", "--yes"), ("extend", "--for", "2h")])
def test_a_machine_is_not_taken_for_a_reservation_and_its_own_is_named(
    run: Run, world: World, command: tuple[str, ...]
) -> None:
    world.rent(1)
    result = run(*command, "7001")
    assert result.exit_code == 1
    assert (
        "7001 is a machine of reservation res-1: name that, gpuproxy destroy 7001 gives it back alone." in result.stderr
    )
    assert "gpuproxy ps shows what is rented" in run(*command, "res-9").stderr


def test_a_reservation_is_not_taken_for_a_machine(run: Run, world: World) -> None:
    world.rent(1)
    result = run("destroy", "res-1", "--yes")
    assert result.exit_code == 1
    assert "res-1 is a reservation: gpuproxy release res-1 gives back everything of it." in result.stderr
    assert "is a reservation" not in run("destroy", "res-9", "--yes").stderr


def test_a_machine_that_is_given_back_is_shown(run: Run, world: World) -> None:
    world.rent(1, status="released").cost_so_far = 0.5
    text = run("show", "7001").stdout
    assert text.startswith("7001 released on vast.ai")
    assert "price      $0.50 in all" in text
    assert "of         res-1" in text
    assert "never by itself" not in text


def test_an_end_that_is_new_is_said_to_be(run: Run, world: World) -> None:
    world.rent(1)
    new = ", and had no end before: everything is given back then"
    assert run("extend", "res-1", "--for", "2h").stdout == f"res-1 ends at 2026-01-02 05:04:05Z{new}\n"
    assert run("extend", "res-1", "--for", "3h").stdout == "res-1 ends at 2026-01-02 06:04:05Z\n"
    assert len(world.extended) == 2
    assert min(world.extended) > NOW


def test_a_server_that_speaks_http_is_not_said_to_be_silent(run: Run, http_port: int) -> None:
    result = run("list", "--server", f"127.0.0.1:{http_port}")
    assert result.exit_code == 3
    assert f"127.0.0.1:{http_port} speaks HTTP, not gRPC: the server's start prints HOST:PORT of both" in result.stderr


@pytest.mark.parametrize("url", ["http://localhost:8080", "https://gpus.example.org"])
def test_the_address_of_a_page_is_not_that_of_grpc(run: Run, url: str) -> None:
    said = f"should be HOST:PORT of gRPC, as in localhost:9090, not {url}"
    for name, result in (
        ("--server", run("list", "--server", url)),
        ("GPUPROXY_SERVER", run("list", GPUPROXY_SERVER=url)),
    ):
        assert (result.exit_code, f"{name}: {said}" in result.stderr) == (2, True)


def test_a_violation_that_is_the_message_is_not_said_again(run: Run, world: World) -> None:
    whole = "must be one of " + ", ".join(f"strategy_{number}" for number in range(20))
    world.refuse_with = error(
        code_pb2.INVALID_ARGUMENT,
        f"strategy: {whole}",
        "INVALID_ARGUMENT",
        {"strategy": whole[:60] + "…", "image": "bad"},
    )
    lines = run("reserve", "1").stderr.splitlines()
    assert lines[1:3] == [f"strategy: {whole}", "  image: bad"]
