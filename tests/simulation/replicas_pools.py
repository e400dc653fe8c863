"""The stories of `pools` with two or three equal servers on one database: no volume has two writers at any moment.

Any server takes the calls. One of them supervises the pools; it crashes, is paused for up to two minutes and goes on,
loses the database or the answer to a commit, and its clock may be wrong by minutes.
"""

import asyncio
from typing import Any

from gpuproxy.runtime.claims import CLAIM_SECONDS
from gpuproxy.sandbox.market.instances import Instance
from tests.mortal import Life
from tests.simulation import pools
from tests.simulation.audit import Violation
from tests.simulation.logs import errors_logged
from tests.simulation.pools import PoolReport
from tests.simulation.pools_weather import PoolWeather, weather_of
from tests.virtual_time import VirtualClock, run_virtual

_SKEWS = (0.0, 0.0, 2.0, -60.0, 300.0, -300.0)


def run(seed: int, *, tell: bool = False) -> PoolReport:
    """Run the story of a seed. Raises Violation."""
    with errors_logged() as errors:
        try:
            return run_virtual(lambda clock: _Story(weather_of(seed), clock, tell=tell).run(errors))
        except Violation as violation:
            violation.add_note(f"seed {seed}")
            raise


class _Story(pools._Story):
    def __init__(self, weather: PoolWeather, clock: VirtualClock, *, tell: bool) -> None:
        super().__init__(weather, clock, tell=tell)
        self.world.shared = True
        self.number = self.dice.choice((2, 2, 3))
        self.loss = self.dice.choice((0.0, 0.0, 0.01, 0.04))
        self.stands: set[Life] = set()
        """Servers that are paused."""

    def up(self) -> list[tuple[Any, Life]]:
        return [each for each in self.processes if not each[1].dead and each[1] not in self.stands]

    async def _live(self) -> None:
        while len([life for _, life in self.processes if not life.dead]) < self.number:
            self.world.skew = self.dice.choice(_SKEWS)
            await super()._live()
            self.world.life.loses_answers = lambda: self.loss > 0 and self.dice.random() < self.loss
        self._turn_to_one()

    def _turn_to_one(self) -> None:
        """Whom the next call reaches."""
        if up := self.up():
            self.world.engine, self.world.life = self.dice.choice(up)

    async def _step(self) -> None:
        self._turn_to_one()
        if self.dice.random() < 0.25:
            await self._pause_and_resume()
        if self.dice.random() < 0.15:
            self._outage_of_the_database()
        await super()._step()

    async def _happen(self, what: str, pool: dict[str, Any], primary: Instance | None) -> bool:
        self._turn_to_one()
        return await super()._happen(what, pool, primary)

    def _crash(self) -> None:
        if len(self.up()) > 1:
            self._turn_to_one()
            super()._crash()

    async def _alive_again(self) -> None:
        dead = sum(life.dead for _, life in self.processes)
        if dead > self.crashes:
            self.crashes = dead
            self.say("crashed")
            await self.world.sleep(self.dice.choice((0.0, 0.0, 5.0, 60.0)))
            await self._live()

    async def _pause_and_resume(self) -> None:
        if len(up := self.up()) < 2:
            return
        _, life = self.dice.choice(up)
        life.pause()
        self.stands.add(life)
        self.pauses += 1
        self.say("pause")

        def resume() -> None:
            life.resume()
            self.stands.discard(life)

        seconds = self.dice.uniform(0.5, self.dice.choice((1.0, 2.5, 10.0))) * CLAIM_SECONDS
        asyncio.get_running_loop().call_later(seconds, resume)

    def _outage_of_the_database(self) -> None:
        """One server can't reach the database."""
        self._turn_to_one()
        life = self.world.life
        life.books_gone = True
        self.say("database gone")

        def back() -> None:
            life.books_gone = False

        asyncio.get_running_loop().call_later(self.dice.uniform(1.0, self.dice.choice((5.0, 40.0))), back)

    async def _calm(self) -> None:
        self.loss = 0.0
        for _, life in self.processes:
            life.spare()
        await super()._calm()
