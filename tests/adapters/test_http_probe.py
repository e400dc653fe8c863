"""The HTTP probe: only an answer with 2xx is reachable, and nothing that a host sends makes it raise."""

import asyncio
from collections.abc import Callable

import pytest

from gpuproxy.adapters.system import SocketProbe
from tests.adapters.raw_server import OK, Answer, Server, closes, resets, says, stays_silent

LONG = 20.0
"""Seconds; a test that needs them fails anyway."""


def probed(*answers: Answer, path: str = "/", timeout: float = LONG) -> tuple[bool, list[bytes]]:
    """The probe's result and the requests that arrived."""

    async def use() -> tuple[bool, list[bytes]]:
        async with Server(*answers).running() as server:
            reachable = await SocketProbe().reachable("http", "127.0.0.1", server.port, timeout, path=path)
            return reachable, server.requests

    return asyncio.run(use())


def status(line: str) -> Answer:
    return says(f"{line}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.parametrize("line", ["HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 204 No Content", "HTTP/1.1 299 "])
def test_an_answer_with_2xx_is_reachable(line: str) -> None:
    assert probed(status(line))[0]


def test_the_body_is_not_waited_for() -> None:
    assert probed(says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin"))[0]


def test_an_interim_answer_is_followed_by_the_real_one() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    assert probed(says(early + OK))[0]
    assert not probed(says(early + b"HTTP/1.1 503 Busy\r\n\r\n"))[0]


NOT_REACHABLE: dict[str, Answer] = {
    "a redirect": says(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
    "not found": status("HTTP/1.1 404 Not Found"),
    "unwell": status("HTTP/1.1 503 Service Unavailable"),
    "an odd status": status("HTTP/1.1 2000 OK"),
    "a short status": status("HTTP/1.1 20 OK"),
    "no number": status("HTTP/1.1 OK"),
    "another protocol": says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "another version": status("HTTP/2 200 OK"),
    "no line": says(b"\r\n\r\n"),
    "an end in the head": says(b"HTTP/1.1 200 OK\r\nContent-", then_close=True),
    "binary": says(bytes(range(256)) * 8, then_close=True),
    "a head without end": says(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000),
    "interim answers without end": says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000),
    "too much before the answer": says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3_000 + OK),
    "a close": closes,
    "a reset": resets,
}


@pytest.mark.parametrize("what", NOT_REACHABLE)
def test_anything_else_is_not_reachable(what: str) -> None:
    assert not probed(NOT_REACHABLE[what])[0]


def test_a_silent_host_is_not_reachable_after_the_timeout() -> None:
    assert not probed(stays_silent, timeout=0.05)[0]


def test_nobody_who_listens_is_not_reachable() -> None:
    async def use() -> bool:
        async with Server(says(OK)).running() as server:
            port = server.port
        return await SocketProbe().reachable("http", "127.0.0.1", port, LONG)

    assert not asyncio.run(use())


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/", b"/"),
        ("", b"/"),
        ("health", b"/health"),
        ("/health?deep=1&gpu=0", b"/health?deep=1&gpu=0"),
        ("/a b", b"/a%20b"),
        ("/a%20b", b"/a%20b"),
        ("/saúde", b"/sa%C3%BAde"),
        ("/a#part", b"/a"),
        ("/a HTTP/1.1\r\nX-Evil: 1\r\n\r\n", b"/a%20HTTP/1.1%0D%0AX-Evil:%201%0D%0A%0D%0A"),
        ("//other.example/x", b"//other.example/x"),
    ],
)
def test_the_path_is_asked_for_and_can_add_nothing_to_the_request(path: str, target: bytes) -> None:
    reachable, requests = probed(says(OK), path=path)
    assert reachable
    [request] = requests
    lines = request.split(b"\r\n")
    assert lines[0] == b"GET " + target + b" HTTP/1.1"
    assert lines[1].startswith(b"Host: 127.0.0.1:")
    assert lines[-2:] == [b"", b""]
    assert len(lines) == 7


@pytest.mark.parametrize("host", ["", "no host", "a\0b", "x" * 300, "é" * 70, "[", "127.0.0.1\r\nX: y"])
@pytest.mark.parametrize("port", [0, -1, 70_000, 9])
def test_a_host_or_a_port_that_can_not_exist_is_not_reachable(host: str, port: int) -> None:
    assert not asyncio.run(SocketProbe().reachable("http", host, port, 5.0))


def test_a_path_that_is_no_text_is_not_reachable() -> None:
    assert not probed(says(OK), path="/\ud800")[0]


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_each_kind_asks_for_its_own(kind: str) -> None:
    async def use(probe: Callable[..., object]) -> int:
        async with Server(says(OK)).running() as server:
            assert await probe(kind, "127.0.0.1", server.port, LONG)  # type: ignore[misc]
            return len(server.requests)

    assert asyncio.run(use(SocketProbe().reachable)) == (1 if kind == "http" else 0)
