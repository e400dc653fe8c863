"""Too many connections: some are closed, the others are served, and the log stays short."""

import asyncio
import errno
import resource

import pytest
import structlog

from gpuproxy.app.listening import allow_many_files, complain_rarely
from tests.edge.engine import StubEngine, service_over
from tests.edge.face import SECONDS
from tests.edge.http_face import both_faces


async def test_connections_beyond_the_limit_are_closed_and_free_places_are_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpuproxy.edge.http.server.MAX_CONNECTIONS", 6)
    async with both_faces(service_over(StubEngine())) as both, asyncio.timeout(SECONDS):
        idle = [await asyncio.open_connection("127.0.0.1", both.port) for _ in range(3)]
        assert await both.raw() == b"", "one network has half of them"
        _, writer = idle[0]
        get = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        writer.write(get)
        assert (await idle[0][0].read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert (await both.raw(get)).startswith(b"HTTP/1.1 200 ")
        for _, each in idle:
            each.close()


async def test_failed_accepts_are_logged_once_a_minute() -> None:
    loop = asyncio.get_running_loop()
    complain_rarely(loop)
    context = {"message": "out of system resource", "exception": OSError(errno.EMFILE, "x"), "socket": object()}
    with structlog.testing.capture_logs() as lines:
        for _ in range(100):
            loop.call_exception_handler(context)
    assert [line["event"] for line in lines] == ["accept_failed"]


async def test_other_errors_of_the_event_loop_are_logged_as_usual(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    complain_rarely(loop)
    for _ in range(2):
        loop.call_exception_handler({"message": "something else", "exception": OSError(errno.EPIPE, "x")})
    assert caplog.text.count("something else") == 2


def test_the_limit_of_open_files_is_raised_to_the_maximum() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
