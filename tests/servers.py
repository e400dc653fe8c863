"""Several equal servers on the database of one world."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gpuproxy.app.wiring import Engine
from gpuproxy.model.demands import Caller
from gpuproxy.model.reservations import ReservationView
from tests.mortal import Life
from tests.world import World, demand, in_world

T = TypeVar("T")
SOON = 20.0
"""Seconds within which the work of a dead server is done by another one."""


@dataclass(frozen=True, slots=True)
class Server:
    """One server."""

    engine: Engine
    life: Life

    @property
    def name(self) -> str:
        """As claims name it."""
        return self.engine.sharing._claims.owner

    def held(self, kind: str) -> set[str]:
        """The names of its claims of a kind."""
        return {
            work.claim.name for work in self.engine.sharing.works if work.claim.is_held() and kind in work.claim.name
        }

    async def reserve(self, count: int, *, seconds: float = 120, project: str = "p1", **wanted: Any) -> ReservationView:
        """One ReserveGPUs call at this server."""
        clock = self.engine.clock
        caller = Caller(project=project, deadline=clock.monotonic() + seconds)
        return await self.engine.reserver.reserve(caller, demand(count, **wanted))


async def another(world: World, *, skew: float | None = None) -> Server:
    """Start one more server. `skew`: by so many seconds its own clock is wrong."""
    world.skew = skew
    await world.start()
    return Server(world.engine, world.life)


def with_servers(
    number: int,
    story: Callable[[World, list[Server]], Awaitable[T]],
    *,
    settled: float = SOON,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> T:
    """Run a story with so many servers in a fresh world, `settled` seconds after the last one was started."""

    async def run(world: World) -> T:
        servers = [Server(world.engine, world.life)]
        servers += [await another(world) for _ in range(1, number)]
        await asyncio.sleep(settled)
        try:
            return await story(world, servers)
        finally:
            for server in servers[:-1]:
                await server.engine.stop()

    return in_world(run, shared=True, settings=settings, **options)
