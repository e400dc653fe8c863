"""The sandbox as a child process: an unexpected end is reported once."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gpuproxy.adapters.system import ScaledClock
from gpuproxy.app.sandbox_child import start_sandbox

pytestmark = pytest.mark.long


async def test_a_market_that_dies_is_logged_once_with_what_to_do(tmp_path: Path) -> None:
    state = tmp_path / "books.db.sandbox"
    with capture_logs() as logs:
        before = _children()
        async with start_sandbox(state, ScaledClock()):
            (child,) = _children() - before
            os.kill(child, signal.SIGKILL)
            while not logs:  # noqa: ASYNC110 - the end of a process
                await asyncio.sleep(0)
    assert [(line["event"], line["log_level"], line["exit_code"]) for line in logs] == [("sandbox_ended", "error", -9)]
    assert (logs[0]["kept"], "Restart the server" in logs[0]["advice"]) == (str(state), True)


async def test_a_sandbox_that_stops_with_the_server_is_not_reported_as_an_error(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with start_sandbox(tmp_path / "state", ScaledClock()):
            pass
    assert logs == []


def _children() -> set[int]:
    """Of this thread: others may have started processes of their own."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}
