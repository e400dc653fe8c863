"""What counting and logging a call costs: an empty call of two servers, one of which does neither."""

import asyncio
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from grpc import aio

from scripts.bench.load import Measured, phase
from scripts.bench.report import Row
from scripts.bench.server import METHOD, SERVICE

ROOT = Path(__file__).resolve().parents[2]
_ROUNDS = 24
_CONNECTIONS = 4


def measure(folder: Path) -> list[Row]:
    """The server's CPU time of a call with both against one without, as a ratio within rounds; the median."""
    with ExitStack() as stack:
        servers = [_server(stack, folder / name, name) for name in ("observed", "unobserved")]
        rounds = asyncio.run(_rounds(servers))
    dearer = statistics.median(with_both["cpu_ms"] / without["cpu_ms"] - 1 for with_both, without in rounds)
    cpu = [statistics.median(each[which]["cpu_ms"] for each in rounds) for which in (0, 1)]
    return [
        Row(
            name="counting and logging an empty call",
            value=dearer * 100,
            unit="%",
            at_most=15,
            note=f"of its CPU time: {cpu[0]:.3f} ms with, {cpu[1]:.3f} ms without",
        )
    ]


def _server(stack: ExitStack, folder: Path, mode: str) -> tuple[int, str, int]:
    """Its port, key and process id."""
    folder.mkdir()
    log = stack.enter_context((folder / "server.log").open("w"))
    server = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "scripts.bench.server", str(folder), mode],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )
    )  # fmt: skip
    assert server.stdout is not None  # noqa: S101 - it was asked for
    port, _, _, key = server.stdout.readline().split()
    return int(port), key, server.pid


async def _rounds(servers: list[tuple[int, str, int]]) -> list[list[Measured]]:
    channels = [
        [
            aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(_CONNECTIONS)
        ]
        for port, _, _ in servers
    ]
    rounds = []
    for number in range(_ROUNDS + 1):
        figures: list[Measured] = [{}, {}]
        for which in (0, 1) if number % 2 else (1, 0):
            _, key, pid = servers[which]
            metadata = (("x-api-key", key),)
            figures[which] = await phase(channels[which], f"/{SERVICE}/{METHOD}", [b"0"], metadata, pid)
        rounds.append(figures)
    for channel in [each for of_one in channels for each in of_one]:
        await channel.close()
    return rounds[1:]  # the first one warms up
