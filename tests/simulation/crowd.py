"""One project floods an account with reservations and releases; how long does another one wait meanwhile?

Everything runs in virtual time with the marketplace's real intervals, so the figures are the same on every machine.
"""

import asyncio
import random
from dataclasses import dataclass

from gpuproxy.model.demands import Caller
from gpuproxy.model.errors import Refusal
from gpuproxy.ports import HttpRequest
from tests.virtual_time import VirtualClock, run_virtual
from tests.world import World

CREATE_INTERVAL = 4.5 * 1.02
DESTROY_INTERVAL = 3.0 * 1.02
DESTROY_LIMIT = 3.0 + DESTROY_INTERVAL
"""Seconds within which a destroy reaches the market."""
_FLOODERS = 20
_ROUNDS = 6
_DEADLINE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Seconds that the small project waited, the longest of all rounds."""

    alone: float
    reserve: float
    destroy: float
    refused: int
    """Of the small project's calls."""
    flooded: int
    """Creates and destroys of the other project meanwhile."""

    @property
    def fair(self) -> bool:
        """True when both promises are kept."""
        return not self.refused and self.reserve <= self.alone + 2 * CREATE_INTERVAL and self.destroy <= DESTROY_LIMIT


def run(seed: int) -> Waits:
    """The waits of the small project, first alone, then in the crowd."""
    alone = run_virtual(lambda clock: _Crowd(clock, seed).story(flooders=0))
    crowded = run_virtual(lambda clock: _Crowd(clock, seed).story(flooders=_FLOODERS))
    return Waits(
        alone=alone.reserve, reserve=crowded.reserve, destroy=max(alone.destroy, crowded.destroy),
        refused=crowded.refused, flooded=crowded.flooded,
    )  # fmt: skip


class _Crowd:
    def __init__(self, clock: VirtualClock, seed: int) -> None:
        self.clock = clock
        self.dice = random.Random(f"crowd {seed}")
        self.world = World(clock, paced=True, accounts=1, seed=seed, machines=400, create_latency=0.5)
        self.arrived: dict[str, float] = {}
        """When the first destroy of a contract reached the market."""
        self.world.overhear.append(self._hear)

    async def story(self, *, flooders: int) -> Waits:
        await self.world.start()
        await self.world.sleep(30)
        flood = [asyncio.create_task(self._flood()) for _ in range(flooders)]
        reserves, destroys, refused = [0.0], [0.0], 0
        for _ in range(_ROUNDS):
            await self.world.sleep(self.dice.uniform(5, 40))
            began = self.clock.monotonic()
            try:
                made = await self.world.reserve(1, seconds=_DEADLINE, project="small")
            except Refusal:
                refused += 1
                continue
            reserves.append(self.clock.monotonic() - began)
            await self.world.sleep(self.dice.uniform(5, 40))
            destroys.append(await self._destroyed(str(made.kept[0].instance_id)))
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        flooded = self.world.calls("create") + self.world.calls("destroy")
        await self.world.engine.stop()
        return Waits(alone=0.0, reserve=max(reserves), destroy=max(destroys), refused=refused, flooded=flooded)

    async def _flood(self) -> None:
        """Reserve as much as one call may, release it, and again."""
        caller = Caller(project="flood")
        while True:
            try:
                made = await self.world.reserve(16, seconds=self.dice.choice((30.0, 120.0, 300.0)), project="flood")
                await self.world.engine.reservations.release(caller, made.reservation.id)
            except Refusal as refusal:
                await self.world.sleep(getattr(refusal, "retry_after", 1.0))

    async def _destroyed(self, contract: str) -> float:
        """The seconds until the destroy reaches the market."""
        began = self.clock.monotonic()
        await self.world.engine.instances.destroy(Caller(project="small"), "vast.ai", contract)
        while contract not in self.arrived:
            await self.world.sleep(0.1)
        return self.arrived[contract] - began

    def _hear(self, request: HttpRequest) -> None:
        if request.method == "DELETE":
            self.arrived.setdefault(request.url.rstrip("/").rpartition("/")[2], self.clock.monotonic())
