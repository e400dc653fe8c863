"""What counting and logging a call costs: an empty call of one server that does it and does not, in turn.

One process, because two of the same program differ by more than what is measured.
"""

import asyncio
import statistics
from pathlib import Path

from grpc import aio

from scripts.bench.load import Measured, Raw, phase
from scripts.bench.report import Row
from scripts.bench.server import METHOD, OFF, ON, SERVICE, SWITCH, Running, running

_ROUNDS = 40
_CONNECTIONS = 4


def measure(folder: Path) -> list[Row]:
    """The server's CPU time of a call with both against one without, as a ratio within rounds; the median."""
    with running(folder) as server:
        rounds = asyncio.run(_rounds(server))
    dearer = statistics.median(each[ON]["cpu_ms"] / each[OFF]["cpu_ms"] - 1 for each in rounds)
    cpu = {mode: statistics.median(each[mode]["cpu_ms"] for each in rounds) for mode in (ON, OFF)}
    return [
        Row(
            name="counting and logging an empty call",
            value=dearer * 100,
            unit="%",
            at_most=15,
            note=f"of its CPU time: {cpu[ON]:.3f} ms with, {cpu[OFF]:.3f} ms without",
        )
    ]


async def _rounds(server: Running) -> list[dict[bytes, Measured]]:
    address = f"127.0.0.1:{server.grpc}"
    channels = [
        aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(_CONNECTIONS)
    ]
    metadata = (("x-api-key", server.key),)
    rounds = []
    for number in range(_ROUNDS + 1):
        figures: dict[bytes, Measured] = {}
        for mode in (ON, OFF) if number % 2 else (OFF, ON):
            switch: Raw = channels[0].unary_unary(f"/{SERVICE}/{SWITCH}")
            await switch(mode, metadata=metadata)
            figures[mode] = await phase(channels, f"/{SERVICE}/{METHOD}", [b"0"], metadata, server.pid)
        rounds.append(figures)
    for channel in channels:
        await channel.close()
    return rounds[1:]  # the first one warms up
