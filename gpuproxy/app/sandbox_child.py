"""The sandbox as a child process of the server: on a free loopback port, with the server's time scale.

The market's state is stored beside the database, so a later start continues where this one ended. The child watches its
standard input: if the server dies for any reason, the pipe closes and the market stops.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from gpuproxy.ports import Clock

log = structlog.get_logger(__name__)

_READY = "sandbox listening on "
_START_SECONDS = 60
_STOP_SECONDS = 10


class SandboxFailed(Exception):
    """The market did not start."""


@dataclass(frozen=True, slots=True)
class SandboxChild:
    """A running market."""

    url: str


@asynccontextmanager
async def start_sandbox(state: Path, clock: Clock) -> AsyncIterator[SandboxChild]:
    """A market until the end of the block; raises SandboxFailed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gpuproxy", "sandbox", "--port", "0", "--state", str(state), "--exit-with-parent"),
        *("--time-scale", str(clock.scale), "--start-time", str(clock.now().timestamp())),
        stdin=PIPE,
        stdout=PIPE,
    )
    watching: asyncio.Task[None] | None = None
    try:
        child = SandboxChild(await _address(process))
        watching = asyncio.create_task(_log_its_end(process, state))
        yield child
    finally:
        if watching is not None:
            watching.cancel()
        if process.stdin is not None:
            process.stdin.close()
        await _ended(process)


async def _address(process: Process) -> str:
    assert process.stdout is not None  # noqa: S101 - it was asked for above
    try:
        async with asyncio.timeout(_START_SECONDS):
            while line := (await process.stdout.readline()).decode():
                if line.startswith(_READY):
                    return line.removeprefix(_READY).strip()
    except TimeoutError:
        raise SandboxFailed(f"The sandbox did not start within {_START_SECONDS} s.") from None
    raise SandboxFailed("The sandbox ended before it was ready; its reason is above.")


async def _log_its_end(process: Process, state: Path) -> None:
    """Log a market that ends before the server does. Otherwise only failed calls would show it."""
    code = await process.wait()
    write = log.error if code else log.info  # Ctrl-C at a terminal ends both processes, the market first, with code 0
    write(
        "sandbox_ended", exit_code=code, kept=str(state), advice="Restart the server. The market continues from there."
    )


async def _ended(process: Process) -> None:
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
